//! Filters, scorers and pickers as an operator writes them: `queue=2`, `sample=2`, `holders=0.8/2`, `softmax=0.1`.

use std::fmt;
use std::str::FromStr;

use aya_domain::EndpointId;

use crate::policy::{Filter, Picker, Scorer, Weighted};

/// Weights beyond this are typing errors.
const WEIGHT_MAX: f64 = 1e9;

/// What is wrong with a word, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadWord(String);

impl fmt::Display for BadWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadWord {}

fn bad(message: impl Into<String>) -> BadWord {
    BadWord(message.into())
}

/// Numbers after the sign, separated by slashes.
fn numbers<const N: usize>(text: &str) -> Option<[f64; N]> {
    let mut numbers = [0.0; N];
    let mut parts = text.split('/');
    for number in &mut numbers {
        *number = parts.next()?.trim().parse().ok().filter(|n| (0.0..=WEIGHT_MAX).contains(n))?;
    }
    parts.next().is_none().then_some(numbers)
}

impl FromStr for Weighted {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
        let [weight] =
            numbers(weight).ok_or_else(|| bad(format!("a weight is a number from 0 to {WEIGHT_MAX}")))?;
        let scorer = Scorer::ALL.iter().find(|scorer| scorer.as_str() == name.trim());
        let known = || Scorer::ALL.iter().map(|scorer| scorer.as_str()).collect::<Vec<_>>().join(", ");
        let scorer = *scorer.ok_or_else(|| bad(format!("unknown scorer; known: {}", known())))?;
        Ok(Self { scorer, weight })
    }
}

impl fmt::Display for Weighted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.scorer.as_str(), self.weight)
    }
}

impl FromStr for Filter {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        let (name, arguments) = text.split_once('=').unwrap_or((text, ""));
        let filter =
            match name.trim() {
                "sample" => arguments.trim().parse().ok().filter(|n| *n > 0).map(Self::Sample),
                "bounded" => numbers(arguments).map(|[times]| Self::Bounded(times)),
                "holders" => numbers(arguments).map(|[share, lead_s]| Self::Holders { share, lead_s }),
                "best-holders" => numbers(arguments).map(|[share, above_mean, times_mean]| {
                    Self::BestHolders { share, above_mean, times_mean }
                }),
                _ => None,
            };
        filter.ok_or_else(|| {
            bad("not sample=N, bounded=TIMES, holders=SHARE/LEAD_S or best-holders=SHARE/ABOVE_MEAN/TIMES_MEAN")
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sample(count) => write!(f, "sample={count}"),
            Self::Bounded(times) => write!(f, "bounded={times}"),
            Self::Holders { share, lead_s } => write!(f, "holders={share}/{lead_s}"),
            Self::BestHolders { share, above_mean, times_mean } => {
                write!(f, "best-holders={share}/{above_mean}/{times_mean}")
            }
        }
    }
}

impl FromStr for Picker {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        match (name.trim(), numbers(argument)) {
            ("least", None) if argument.is_empty() => Ok(Self::Least),
            ("softmax", Some([temperature])) => Ok(Self::Softmax(temperature)),
            _ => Err(bad("not least or softmax=TEMPERATURE")),
        }
    }
}

impl fmt::Display for Picker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Least => f.write_str("least"),
            Self::Softmax(temperature) => write!(f, "softmax={temperature}"),
        }
    }
}

/// The relative speed of one endpoint, written `ENDPOINT=SPEED`.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpeed {
    pub endpoint: EndpointId,
    pub speed: f64,
}

impl FromStr for EndpointSpeed {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        let parts = text.rsplit_once('=').and_then(|(endpoint, speed)| {
            let [speed] = numbers(speed)?;
            Some((EndpointId::parse(endpoint.trim()).ok()?, speed)).filter(|(_, speed)| *speed > 0.0)
        });
        let (endpoint, speed) =
            parts.ok_or_else(|| bad("not of the form ENDPOINT=SPEED with a speed above 0"))?;
        Ok(Self { endpoint, speed })
    }
}

impl fmt::Display for EndpointSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.endpoint, self.speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again<T: FromStr<Err = BadWord> + fmt::Display>(text: &str) -> String {
        text.parse::<T>().map_or_else(|error| error.to_string(), |value| value.to_string())
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for text in ["sample=2", "bounded=1.25", "holders=0.8/2", "best-holders=0.3/64/1.5"] {
            assert_eq!(again::<Filter>(text), text);
        }
        for text in ["least", "softmax=0.1"] {
            assert_eq!(again::<Picker>(text), text);
        }
        for scorer in Scorer::ALL {
            let text = format!("{}=2.5", scorer.as_str());
            assert_eq!(again::<Weighted>(&text), text);
        }
        assert_eq!(again::<Weighted>("queue"), "queue=1");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        assert!(again::<Weighted>("quality=2").starts_with("unknown scorer; known: cost, "));
        assert!(again::<Weighted>("queue=-1").starts_with("a weight is"));
        for text in ["sample", "sample=0", "holders=0.8", "holders=0.8/2/3", "filter=1"] {
            assert!(again::<Filter>(text).starts_with("not sample=N"), "{text}");
        }
        assert!(again::<Picker>("best").starts_with("not least"));
    }
}
