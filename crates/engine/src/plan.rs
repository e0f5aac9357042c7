//! Which pages of an engine are asked, and how often at the most.
//!
//! The periods are part of being a good neighbour: llama.cpp answers probes from the same few threads that
//! hold its requests, and a poll faster than 1 s keeps it from noticing a client that has gone.

use std::time::Duration;

use aya_domain::EngineKind;

/// A page of an engine, by what it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Page {
    /// Whether it can take requests: only the status and the first words count.
    Health,
    /// Prometheus text.
    Metrics,
    /// llama.cpp's slots.
    Slots,
    /// llama.cpp's properties.
    Props,
    /// OpenAI's list of models.
    Models,
    /// The version alone.
    Version,
}

impl Page {
    /// The name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Slots => "slots",
            Self::Props => "props",
            Self::Models => "models",
            Self::Version => "version",
        }
    }
}

/// One page of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePlan {
    pub page: Page,
    /// Paths to try in this order: the next one is taken for good when one answers 404.
    pub paths: &'static [&'static str],
    /// The shortest time between two questions; the configured period may only make it longer.
    pub period_min: Duration,
}

/// How an engine is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePlan {
    /// The health page comes first.
    pub pages: &'static [PagePlan],
}

/// How often the slow facts are read; also at once when an engine comes up.
pub const MODELS_PERIOD: Duration = Duration::from_secs(10);
const FAST: Duration = Duration::from_millis(250);
const SECOND: Duration = Duration::from_secs(1);

const fn page(page: Page, paths: &'static [&'static str], period_min: Duration) -> PagePlan {
    PagePlan { page, paths, period_min }
}

const MODELS: PagePlan = page(Page::Models, &["/v1/models"], MODELS_PERIOD);

const VLLM: &[PagePlan] = &[
    page(Page::Health, &["/health"], SECOND),
    page(Page::Metrics, &["/metrics"], FAST),
    MODELS,
    page(Page::Version, &["/version"], MODELS_PERIOD),
];

const SIMULATED: &[PagePlan] =
    &[page(Page::Health, &["/health"], SECOND), page(Page::Metrics, &["/metrics"], FAST), MODELS];

const LLAMA_CPP: &[PagePlan] = &[
    page(Page::Health, &["/health"], SECOND),
    page(Page::Metrics, &["/metrics"], SECOND),
    page(Page::Slots, &["/slots"], SECOND),
    page(Page::Props, &["/props"], MODELS_PERIOD),
    MODELS,
];

// SGLang's /health generates a token and takes a second or more; /ready is cheap, but not in every version.
const SGLANG: &[PagePlan] = &[page(Page::Health, &["/ready", "/v1/models"], SECOND), MODELS];
const PLAIN: &[PagePlan] = &[page(Page::Health, &["/health"], SECOND), MODELS];
const TRITON: &[PagePlan] = &[page(Page::Health, &["/health/ready", "/v2/health/ready"], SECOND), MODELS];
const OLLAMA: &[PagePlan] = &[page(Page::Health, &["/api/version"], SECOND), MODELS];

/// How engines of a kind are watched.
#[must_use]
pub const fn plan(kind: EngineKind) -> ProbePlan {
    let pages = match kind {
        EngineKind::Vllm => VLLM,
        EngineKind::Simulated => SIMULATED,
        EngineKind::LlamaCpp => LLAMA_CPP,
        EngineKind::Sglang => SGLANG,
        EngineKind::Tgi | EngineKind::TrtLlm => PLAIN,
        EngineKind::Triton => TRITON,
        EngineKind::Ollama => OLLAMA,
    };
    ProbePlan { pages }
}

impl ProbePlan {
    /// Whether this kind's load (running, waiting, KV) is read at all.
    #[must_use]
    pub fn reads_load(&self) -> bool {
        self.pages.iter().any(|p| matches!(p.page, Page::Metrics | Page::Slots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_health_page_first_and_a_list_of_models() {
        for kind in EngineKind::ALL {
            let plan = plan(kind);
            assert_eq!(plan.pages[0].page, Page::Health, "{kind}");
            assert!(plan.pages.iter().any(|p| p.page == Page::Models), "{kind}");
            assert!(plan.pages.iter().all(|p| !p.paths.is_empty()), "{kind}");
        }
    }

    #[test]
    fn llama_cpp_is_never_polled_faster_than_once_a_second() {
        let plan = plan(EngineKind::LlamaCpp);
        assert!(plan.pages.iter().all(|p| p.period_min >= SECOND));
    }
}
