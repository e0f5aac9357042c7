//! How a GPU is connected, in JSON.

use aya_domain::PcieLink;
use serde::Serialize;

/// The link as it is, and as it could be.
#[derive(Debug, Serialize)]
pub(super) struct PcieLinkJson {
    generation: u32,
    lanes: u32,
    generation_max: u32,
    lanes_max: u32,
}

impl From<PcieLink> for PcieLinkJson {
    fn from(link: PcieLink) -> Self {
        let PcieLink { generation, lanes, generation_max, lanes_max } = link;
        Self { generation, lanes, generation_max, lanes_max }
    }
}
