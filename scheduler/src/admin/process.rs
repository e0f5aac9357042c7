//! A process that holds a GPU, in JSON.

use aya_domain::GpuProcess;
use serde::Serialize;

/// What is known of it; what is not is absent.
#[derive(Debug, Serialize)]
pub(super) struct ProcessJson {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<String>,
}

impl From<&GpuProcess> for ProcessJson {
    fn from(process: &GpuProcess) -> Self {
        Self {
            pid: process.pid,
            name: process.name.clone(),
            vram_bytes: process.vram.map(|bytes| bytes.get()),
            engine: process.engine.as_ref().map(ToString::to_string),
        }
    }
}
