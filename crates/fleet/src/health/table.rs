//! What the driver's critical errors (XIDs) mean, as data: the default that operators may override.
//!
//! NVIDIA's catalogue says what an error is and what to do; DCGM, AWS EKS, GPUd and NVIDIA's device plugin each have a
//! list of those that make a GPU unfit, and they disagree (31, 63, 94, 109). This table follows the catalogue's advice
//! on what must be restarted: the application, the GPU, or the node.

/// What kind of error an XID is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XidClass {
    /// A fault of an application or its engine. The GPU stays, unless it keeps happening.
    App,
    /// For the record.
    Log,
    /// The GPU works, and wants a reset at the next quiet time.
    ResetSoon,
    /// A link between GPUs: engines on several of them are hit.
    Link,
    /// The GPU needs a reset before it can be trusted.
    Reset,
    /// The GPU is gone; the node needs a restart.
    Gone,
    /// Power or mechanics: somebody has to look at the board.
    Board,
}

/// Codes of one meaning.
#[derive(Debug, Clone, Copy)]
pub struct XidRow {
    pub codes: &'static [u32],
    pub class: XidClass,
    pub meaning: &'static str,
    /// Who says so.
    pub source: &'static str,
}

const fn row(codes: &'static [u32], class: XidClass, meaning: &'static str, source: &'static str) -> XidRow {
    XidRow { codes, class, meaning, source }
}

const CATALOGUE: &str = "NVIDIA XID catalogue";

/// Every known code once.
pub const XIDS: &[XidRow] = &[
    row(
        &[13, 31, 43, 45, 68, 69],
        XidClass::App,
        "application fault: exception, page fault, stopped, clean-up, NVDEC or class error",
        "NVIDIA XID catalogue: restart app; device plugin ignores them",
    ),
    row(
        &[
            8, 11, 25, 32, 39, 40, 41, 60, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89, 96, 97,
            98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135, 139,
        ],
        XidClass::App,
        "exception of a copy, codec or other engine of the GPU",
        "NVIDIA XID catalogue: restart app",
    ),
    row(&[94], XidClass::App, "contained memory error", "NVIDIA XID catalogue: restart app; EKS not fatal"),
    row(
        &[14, 37, 38, 44, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 152, 153, 154, 157, 160, 161],
        XidClass::Log,
        "informational",
        "NVIDIA XID catalogue: ignore; 154 comes with a recovery action of its own",
    ),
    row(&[78], XidClass::Log, "vGPU start", "NVIDIA XID catalogue: update software"),
    row(&[63], XidClass::ResetSoon, "row remapping recorded", "NVIDIA XID catalogue: ignore; EKS fatal"),
    row(
        &[74, 144, 145, 146, 147, 148, 149, 150],
        XidClass::Link,
        "NVLink error",
        "NVIDIA XID catalogue: by sub-code; DCGM and EKS fail on 74",
    ),
    row(&[48], XidClass::Reset, "double-bit memory error", "NVIDIA XID catalogue: reset; DCGM, EKS fatal"),
    row(
        &[46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158],
        XidClass::Reset,
        "stopped, microcontroller halt, failed remap, uncontained memory error, GSP or link training",
        "NVIDIA XID catalogue: reset GPU; DCGM fails on 64, 95, 119, 120, 140; EKS fatal",
    ),
    row(&[79], XidClass::Gone, "fell off the bus", "NVIDIA XID catalogue: restart node; DCGM, EKS fatal"),
    row(&[54], XidClass::Board, "auxiliary power is not connected", CATALOGUE),
    row(&[142, 151], XidClass::Board, "NVENC3 or key rotation", "NVIDIA XID catalogue: support, restart VM"),
];

/// The row of a code; `None`: nobody describes it.
#[must_use]
pub fn xid(code: u32) -> Option<&'static XidRow> {
    XIDS.iter().find(|row| row.codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_one_row() {
        let mut seen = BTreeSet::new();
        for code in XIDS.iter().flat_map(|row| row.codes) {
            assert!(seen.insert(code), "{code} twice");
        }
        assert_eq!(xid(79).map(|row| row.class), Some(XidClass::Gone));
        assert!(xid(9_999).is_none());
    }
}
