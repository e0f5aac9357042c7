//! What one page told: for each thing a page speaks of, a value or the reason why there is none.

use std::fmt;

use aya_domain::{Bytes, EngineProfile, ModelId, PrefixCache, Ratio, ServedModel, Tokens};

/// Why a page cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageError {
    /// It answered with another status than success.
    Status(u16),
    /// Longer than the limit.
    TooLarge,
    /// A web page: most likely not this kind of engine.
    Html,
    /// Not one series in it.
    NoSeries,
    /// Series, and none of them of this kind of engine: another kind answers here, or the wrong port.
    Foreign,
    /// Not the JSON that this page should be.
    NotJson,
}

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Aya does not read this from this kind of engine.
    NotRead,
    /// The page does not have it.
    Missing,
    /// Not a number of this kind: text, a fraction of a request, half a line.
    Malformed,
    /// NaN or infinite.
    NotFinite,
    /// Less than zero.
    Negative,
    /// More than the unit can be.
    TooLarge,
    /// The whole page is useless.
    Page(PageError),
}

impl Absent {
    /// The name used in metrics: a closed set.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRead => "not_read",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::NotFinite => "not_finite",
            Self::Negative => "negative",
            Self::TooLarge => "too_large",
            Self::Page(PageError::Status(_)) => "page_status",
            Self::Page(PageError::TooLarge) => "page_too_large",
            Self::Page(PageError::Html) => "page_html",
            Self::Page(PageError::NoSeries) => "page_no_series",
            Self::Page(PageError::Foreign) => "page_foreign",
            Self::Page(PageError::NotJson) => "page_not_json",
        }
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead => f.write_str("not read from this kind of engine"),
            Self::Missing => f.write_str("the page does not have it"),
            Self::Malformed => f.write_str("malformed"),
            Self::NotFinite => f.write_str("not a finite number"),
            Self::Negative => f.write_str("negative"),
            Self::TooLarge => f.write_str("impossibly large"),
            Self::Page(PageError::Status(401 | 403)) => f.write_str("the page wants an API key (401 or 403)"),
            Self::Page(PageError::Status(status)) => write!(f, "the page answers {status}"),
            Self::Page(PageError::TooLarge) => f.write_str("the page is larger than the limit"),
            Self::Page(PageError::Html) => f.write_str("the page is HTML: is this the right kind of engine?"),
            Self::Page(PageError::NoSeries) => f.write_str("the page has no metrics in it"),
            Self::Page(PageError::Foreign) => {
                f.write_str("the page has metrics, and none of this kind of engine")
            }
            Self::Page(PageError::NotJson) => f.write_str("the page is not the JSON it should be"),
        }
    }
}

/// A value, the reason for its absence, or `None`: the page does not speak of it.
pub type Finding<T> = Option<Result<T, Absent>>;

/// What a simulated engine does to the simulated GPUs below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    /// Share of the time with an iteration running.
    pub busy: Ratio,
    /// Share of the time spent on prompts, at most `busy`.
    pub prefill: Ratio,
    /// Weights and KV cache on all of its GPUs together.
    pub vram_used: Bytes,
    /// The GPU product it plays.
    pub gpu_name: Option<String>,
    /// How many of them.
    pub gpus: Option<u32>,
}

/// A model that an engine holds in memory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedModel {
    pub id: ModelId,
    /// In all memory together.
    pub size: Option<Bytes>,
    /// Of it in VRAM; less than `size` where layers run on the CPU.
    pub vram: Option<Bytes>,
    pub context_length: Option<Tokens>,
    /// RFC 3339, by the engine's own clock: when it is unloaded unless it is used.
    pub expires_at: Option<String>,
}

/// Everything one page told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Findings {
    pub running: Finding<u32>,
    pub waiting: Finding<u32>,
    pub kv_used: Finding<Ratio>,
    pub kv_capacity: Finding<Tokens>,
    pub max_sequences: Finding<u32>,
    pub prefix_cache: Finding<PrefixCache>,
    /// Grows with every step of the engine, also in the middle of a request.
    pub work: Finding<u64>,
    pub models: Finding<Vec<ServedModel>>,
    /// The models in memory, of an engine that serves more than it holds.
    pub loaded: Finding<Vec<LoadedModel>>,
    /// For models whose own entry does not give one.
    pub context_length: Finding<Tokens>,
    pub version: Finding<String>,
    pub profile: Finding<EngineProfile>,
    pub activity: Finding<Activity>,
}

/// A number that counts things.
///
/// # Errors
/// [`Absent`] for what is no count: negative, fractional, not finite or beyond `u32`.
pub(crate) fn count(value: f64) -> Result<u32, Absent> {
    whole(value).and_then(|v| u32::try_from(v).map_err(|_| Absent::TooLarge))
}

/// A whole number of tokens or bytes.
pub(crate) fn whole(value: f64) -> Result<u64, Absent> {
    /// Above this an f64 no longer holds every whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let value = finite(value)?;
    if value > EXACT_MAX {
        return Err(Absent::TooLarge);
    }
    if value.fract() != 0.0 {
        return Err(Absent::Malformed);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked: whole, not negative, below 2^53"
    )]
    Ok(value as u64)
}

/// A finite number that is not negative.
pub(crate) fn finite(value: f64) -> Result<f64, Absent> {
    match value {
        v if !v.is_finite() => Err(Absent::NotFinite),
        v if v < 0.0 => Err(Absent::Negative),
        v => Ok(v),
    }
}

/// A share from 0 to 1.
pub(crate) fn ratio(value: f64) -> Result<Ratio, Absent> {
    Ratio::new(finite(value)?).map_err(|_| Absent::TooLarge)
}
