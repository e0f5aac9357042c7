//! A word to whoever started an agent that has nothing to report.

use std::sync::Arc;
use std::time::Duration;

use aya_config::DiscoveryMode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::view::View;

/// Drivers and discovery have had their first looks by then.
const AFTER: Duration = Duration::from_secs(15);

/// Looks once.
pub(crate) async fn hint(
    views: watch::Receiver<Arc<View>>,
    discovery: DiscoveryMode,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = tokio::time::sleep(AFTER) => {}
    }
    let advice = advice(&views.borrow(), discovery);
    if let Some(advice) = advice {
        warn!("{advice}");
    }
}

/// What to do about a node without GPUs and engines; nothing if it has one of them.
fn advice(view: &View, discovery: DiscoveryMode) -> Option<String> {
    if !view.gpus.is_empty() || !view.engines.is_empty() {
        return None;
    }
    let reason = view.source.as_ref().and_then(|source| source.error.as_deref());
    let gpus = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
    let engines = match discovery {
        DiscoveryMode::Off => "name them with --engine KIND=URL, or turn discovery on",
        DiscoveryMode::Gpu => {
            "start one, name it with --engine KIND=URL, or let --discover all look at processes without a GPU"
        }
        DiscoveryMode::All => "start one, or name it with --engine KIND=URL",
    };
    Some(format!(
        "nothing to report: no GPU is seen{gpus} and no engine is known. \
         GPUs: check that nvidia-smi lists them here, or give --nvml-lib PATH. Engines: {engines}"
    ))
}

#[cfg(test)]
mod tests {
    use aya_domain::{GpuInfo, GpuSourceKind, GpuUuid};

    use super::*;
    use crate::view::{GpuSourceView, Update};

    #[test]
    fn an_agent_with_nothing_to_report_says_what_to_do_and_any_other_says_nothing() {
        let mut view = View::new(Vec::new());
        let error = Some("no NVIDIA driver found (x)".to_owned());
        view.apply(Update::Source(GpuSourceView { kind: GpuSourceKind::Nvml, driver_version: None, error }));
        for (mode, expect) in [
            (DiscoveryMode::Gpu, "--discover all"),
            (DiscoveryMode::Off, "turn discovery on"),
            (DiscoveryMode::All, "--engine KIND=URL"),
        ] {
            let advice = advice(&view, mode).unwrap();
            assert!(advice.contains("no GPU is seen (no NVIDIA driver found (x))"), "{advice}");
            assert!(advice.contains(expect), "{mode:?}: {advice}");
        }
        let info = GpuInfo {
            uuid: GpuUuid::parse("GPU-1").unwrap(),
            name: "NVIDIA L4".to_owned(),
            vram_total: None,
            power_limit: None,
            sm_clock_max_mhz: None,
            slowdown_margin: None,
            mig: None,
        };
        view.apply(Update::Gpus { infos: vec![info], whole: true });
        assert_eq!(advice(&view, DiscoveryMode::Gpu), None);
    }
}
