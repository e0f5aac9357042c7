//! Numbers that come back bit for bit: JSON's shortest form where they are finite, else their bits.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A float of which no bit is lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exact(pub(crate) f64);

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.collect_str(&format_args!("{:#018x}", self.0.to_bits()))
        }
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(f64),
            Bits(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(number) => Ok(Self(number)),
            Either::Bits(text) => text
                .strip_prefix("0x")
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .map(|bits| Self(f64::from_bits(bits)))
                .ok_or_else(|| D::Error::custom(format!("{text:?} is neither a number nor the bits of one"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_is_lost() {
        let mut seed = 7;
        let random = std::iter::repeat_with(|| {
            seed = aya_domain::splitmix64(seed);
            f64::from_bits(seed)
        });
        let special = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, 5e-324, 0.1];
        for number in random.take(100_000).chain(special) {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), number.to_bits(), "{text}");
        }
        for bad in ["null", "\"1.5\"", "\"0xzz\""] {
            assert!(serde_json::from_str::<Exact>(bad).is_err(), "{bad}");
        }
    }
}
