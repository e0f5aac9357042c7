//! The GPU products that can be simulated, with the figures of their data sheets.

use aya_domain::{Bytes, Milliwatts};

const MIB: u64 = 1024 * 1024;

/// A GPU product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// As NVML names it.
    pub name: &'static str,
    pub vram_total: Bytes,
    /// What the driver keeps for itself.
    pub vram_reserved: Bytes,
    pub power_limit: Milliwatts,
    pub power_idle: Milliwatts,
    pub sm_clock_max_mhz: u32,
    pub memory_clock_mhz: u32,
}

#[derive(Clone, Copy)]
struct Sheet {
    vram_mib: u64,
    limit_w: u64,
    idle_w: u64,
    clocks_mhz: (u32, u32),
}

const fn product(name: &'static str, sheet: Sheet) -> Product {
    Product {
        name,
        vram_total: Bytes(sheet.vram_mib * MIB),
        vram_reserved: Bytes(sheet.vram_mib * MIB / 160),
        power_limit: Milliwatts(sheet.limit_w * 1000),
        power_idle: Milliwatts(sheet.idle_w * 1000),
        sm_clock_max_mhz: sheet.clocks_mhz.0,
        memory_clock_mhz: sheet.clocks_mhz.1,
    }
}

const fn sheet(vram_mib: u64, limit_w: u64, idle_w: u64, clocks_mhz: (u32, u32)) -> Sheet {
    Sheet { vram_mib, limit_w, idle_w, clocks_mhz }
}

const PRODUCTS: [Product; 7] = [
    product("NVIDIA L4", sheet(23_034, 72, 16, (2040, 6251))),
    product("NVIDIA A10G", sheet(23_028, 300, 22, (1710, 6251))),
    product("NVIDIA L40S", sheet(46_068, 350, 35, (2520, 9001))),
    product("NVIDIA A100-SXM4-80GB", sheet(81_920, 400, 60, (1410, 1593))),
    product("NVIDIA H100 80GB HBM3", sheet(81_559, 700, 70, (1980, 2619))),
    product("NVIDIA H200", sheet(143_771, 700, 75, (1980, 3201))),
    product("NVIDIA B200", sheet(183_359, 1000, 140, (1965, 3996))),
];

impl Product {
    /// A product that the table does not have: the figures of an H100 under another name.
    #[must_use]
    pub const fn unknown(name: &'static str) -> Self {
        product(name, sheet(81_559, 700, 70, (1980, 2619)))
    }

    /// Every product that can be simulated.
    #[must_use]
    pub const fn all() -> &'static [Self] {
        &PRODUCTS
    }

    /// A product by its full name, or by a part of it in any case such as `h100`; the shortest name wins.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let wanted = text.to_ascii_lowercase();
        if wanted.is_empty() {
            return None;
        }
        let hits = PRODUCTS.iter().filter(|p| p.name.to_ascii_lowercase().contains(&wanted));
        hits.min_by_key(|p| p.name.len()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_found_by_its_name_or_a_part_of_it() {
        for (text, expect) in [
            ("NVIDIA H100 80GB HBM3", Some("NVIDIA H100 80GB HBM3")),
            ("h100", Some("NVIDIA H100 80GB HBM3")),
            ("L4", Some("NVIDIA L4")),
            ("l40s", Some("NVIDIA L40S")),
            ("a100", Some("NVIDIA A100-SXM4-80GB")),
            ("", None),
            ("rtx", None),
        ] {
            assert_eq!(Product::named(text).map(|p| p.name), expect, "{text}");
        }
    }
}
