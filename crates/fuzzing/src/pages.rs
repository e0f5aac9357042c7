//! What engines say on their pages, every kind and page: no page may become a number that cannot be.

use std::time::Duration;

use aya_domain::EngineKind;
use aya_engine::{Findings, Heard, Page, ProbeOutcome, fingerprint, health_verdict, parse, scan};

pub(crate) const WORDS: &[&str] = &[
    "\n",
    " ",
    "{",
    "}",
    "=\"",
    "\"",
    "\\",
    "NaN",
    "+Inf",
    "-1",
    "1e999",
    "0.5",
    "9007199254740993",
    "# TYPE ",
    "<html>",
    "vllm:num_requests_running",
    "vllm:gpu_cache_usage_perc",
    "llamacpp:requests_processing",
    "sglang:num_running_reqs",
    "tgi_batch_current_size",
    "nv_inference_pending_request_count",
    "model_name=\"",
    "\"id\":",
    "\"data\":[",
    "null",
    "\"is_processing\":true",
    "\"n_ctx\":",
    "\"max_model_len\":-1",
    "\"models\":[",
    "\"size_vram\":",
    "[",
    "]",
    ",",
];

const PAGES: [Page; 9] = [
    Page::Health,
    Page::Metrics,
    Page::Slots,
    Page::Props,
    Page::Loads,
    Page::Info,
    Page::Loaded,
    Page::Models,
    Page::Version,
];

pub(crate) fn check(input: &[u8]) {
    for kind in EngineKind::ALL {
        for page in PAGES {
            let told = parse(kind, page, 200, input);
            assert_eq!(
                parse(kind, page, 200, input),
                told,
                "{kind:?} {page:?}: the same page, read otherwise"
            );
            possible(&told);
            let refused = parse(kind, page, 500, input);
            assert!(refused.running.is_none_or(|running| running.is_err()), "an error page told a number");
        }
    }
    let _ = scan(input, |series| {
        let _ = (series.name(), series.value(), series.label("model_name"));
    });
    let heard = [
        Heard { path: "/version", status: 200, body: input },
        Heard { path: "/v1/models", status: 200, body: input },
    ];
    let _ = fingerprint(&heard);
    let outcome = ProbeOutcome::Answered { status: 503, body: input };
    let _ = health_verdict(&outcome, true, Some(Duration::from_secs(1)));
}

fn possible(told: &Findings) {
    if let Some(Ok(used)) = &told.kv_used {
        assert!((0.0..=1.0).contains(&used.get()), "a share of {}", used.get());
    }
    if let Some(Ok(activity)) = &told.activity {
        let (busy, prefill) = (activity.busy.get(), activity.prefill.get());
        assert!(prefill <= busy && busy <= 1.0 && prefill >= 0.0, "{prefill} of {busy}");
    }
    if let Some(Ok(loaded)) = &told.loaded {
        for model in loaded {
            assert!(model.vram.is_none_or(|vram| model.size.is_none_or(|size| vram <= size)), "{model:?}");
        }
    }
    if let Some(Ok(models)) = &told.models {
        assert!(models.iter().all(|model| !model.id.as_str().is_empty()), "a model without a name");
    }
}
