//! Fleets in a line of text: `2*h100-8b,4*a100-8b` are two and four engines of the named profiles.

use aya_estimate::{NamedProfile, UnknownProfile, named};

/// Engines of one simulated farm.
const ENDPOINTS_MAX: usize = 16_384;

/// Why a text is no fleet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    #[error("{0:?} is not PROFILE or COUNT*PROFILE")]
    Malformed(String),
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    #[error("a fleet has 1 to {ENDPOINTS_MAX} engines")]
    Size,
}

/// One profile per engine, in the order of the text.
///
/// # Errors
/// [`FleetError`].
pub fn parse_fleet(text: &str) -> Result<Vec<&'static NamedProfile>, FleetError> {
    let mut engines = Vec::new();
    for part in text.split(',').map(str::trim) {
        let malformed = || FleetError::Malformed(part.to_owned());
        let (count, name) = match part.split_once('*') {
            Some((count, name)) => (count.trim().parse::<usize>().map_err(|_| malformed())?, name.trim()),
            None => (1, part),
        };
        if name.is_empty() {
            return Err(malformed());
        }
        if engines.len().saturating_add(count) > ENDPOINTS_MAX {
            return Err(FleetError::Size);
        }
        engines.extend(std::iter::repeat_n(named(name)?, count));
    }
    if engines.is_empty() { Err(FleetError::Size) } else { Ok(engines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_read_in_order() {
        let names = |text| parse_fleet(text).unwrap().iter().map(|p| p.name).collect::<Vec<_>>().join(" ");
        assert_eq!(names("2*h100-8b,l4-8b"), "h100-8b h100-8b l4-8b");
        assert_eq!(names(" 1 * a10g-8b , a100x4-70b"), "a10g-8b a100x4-70b");
    }

    #[test]
    fn what_is_no_fleet_is_refused() {
        for text in ["", ",", "2*", "x*l4-8b", "-1*l4-8b", "2*h200", "0*l4-8b", "99999*l4-8b"] {
            assert!(parse_fleet(text).is_err(), "{text}");
        }
    }
}
