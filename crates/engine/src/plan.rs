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
    /// SGLang's load per rank.
    Loads,
    /// TGI's limits.
    Info,
    /// Ollama's models in memory.
    Loaded,
    /// OpenAI's list of models.
    Models,
    /// The version alone.
    Version,
}

impl Page {
    /// Every page.
    pub const ALL: [Self; 9] = [
        Self::Health,
        Self::Metrics,
        Self::Slots,
        Self::Props,
        Self::Loads,
        Self::Info,
        Self::Loaded,
        Self::Models,
        Self::Version,
    ];

    /// The name used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Slots => "slots",
            Self::Props => "props",
            Self::Loads => "loads",
            Self::Info => "info",
            Self::Loaded => "loaded",
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
// Its pages of load ask other processes of the engine, so once a second is enough.
const SGLANG: &[PagePlan] = &[
    page(Page::Health, &["/ready", "/v1/models"], SECOND),
    page(Page::Metrics, &["/metrics"], SECOND),
    page(Page::Loads, &["/v1/loads?include=core"], SECOND),
    MODELS,
    page(Page::Version, &["/server_info", "/get_server_info"], MODELS_PERIOD),
];

const TGI: &[PagePlan] = &[
    page(Page::Health, &["/health"], SECOND),
    page(Page::Metrics, &["/metrics"], FAST),
    page(Page::Info, &["/info"], MODELS_PERIOD),
    MODELS,
];

// Never /metrics: reading it takes the numbers away from everybody else.
const TRTLLM: &[PagePlan] = &[
    page(Page::Health, &["/health"], SECOND),
    page(Page::Metrics, &["/prometheus/metrics"], FAST),
    MODELS,
    page(Page::Version, &["/version"], MODELS_PERIOD),
];

// The OpenAI frontend has the metrics on its own port; the bare server on another one (8002).
const TRITON: &[PagePlan] = &[
    page(Page::Health, &["/health/ready", "/v2/health/ready"], SECOND),
    page(Page::Metrics, &["/metrics"], FAST),
    MODELS,
];

const OLLAMA: &[PagePlan] = &[
    page(Page::Health, &["/api/version"], SECOND),
    page(Page::Loaded, &["/api/ps"], SECOND),
    MODELS,
    page(Page::Version, &["/api/version"], MODELS_PERIOD),
];

/// How engines of a kind are watched.
#[must_use]
pub const fn plan(kind: EngineKind) -> ProbePlan {
    let pages = match kind {
        EngineKind::Vllm => VLLM,
        EngineKind::Simulated => SIMULATED,
        EngineKind::LlamaCpp => LLAMA_CPP,
        EngineKind::Sglang => SGLANG,
        EngineKind::Tgi => TGI,
        EngineKind::TrtLlm => TRTLLM,
        EngineKind::Triton => TRITON,
        EngineKind::Ollama => OLLAMA,
    };
    ProbePlan { pages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_health_page_first_and_a_list_of_models() {
        for kind in EngineKind::ALL {
            let plan = plan(kind);
            assert_eq!(plan.pages[0].page, Page::Health, "{kind}");
            assert_eq!(plan.pages[0].paths[0], kind.capabilities().health_path, "{kind}");
            assert!(plan.pages.iter().any(|p| p.page == Page::Models), "{kind}");
            assert!(plan.pages.iter().all(|p| !p.paths.is_empty()), "{kind}");
        }
    }

    #[test]
    fn no_question_costs_an_engine_tokens_or_others_their_numbers() {
        for (kind, never) in [
            // Generates a token, takes a second or more.
            (EngineKind::Sglang, "/health"),
            // A queue that every reader empties.
            (EngineKind::TrtLlm, "/metrics"),
            (EngineKind::TrtLlm, "/health_generate"),
        ] {
            let plan = plan(kind);
            assert!(plan.pages.iter().all(|page| !page.paths.contains(&never)), "{kind} {never}");
        }
    }

    #[test]
    fn llama_cpp_is_never_polled_faster_than_once_a_second() {
        let plan = plan(EngineKind::LlamaCpp);
        assert!(plan.pages.iter().all(|p| p.period_min >= SECOND));
    }
}
