//! `/metrics`: vLLM's names and labels for the load, and `aya_sim_*` for what a real engine would never tell.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::App;
use crate::activity::Shares;
use crate::config::Facts;
use crate::kv::BLOCK_TOKENS;
use crate::status::{Histogram, Status};

pub(super) async fn page(State(app): State<Arc<App>>) -> Response {
    let lie = app.shared.faults.borrow().lie;
    let now = app.clock.now();
    let page = {
        let status = app.shared.status.lock();
        render(&app.facts, &status, status.activity.shares(now), lie)
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

/// Text under construction; writing to a `String` cannot fail.
struct Page {
    out: String,
    /// `engine="0",model_name="..."`.
    labels: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, more: &str, value: impl fmt::Display) {
        let comma = if more.is_empty() { "" } else { "," };
        let _ = writeln!(self.out, "{name}{{{}{comma}{more}}} {value}", self.labels);
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// Without vLLM's labels.
    fn own(&mut self, name: &str, help: &str, value: impl fmt::Display) {
        self.family(name, "gauge", help);
        let _ = writeln!(self.out, "{name} {value}");
    }

    fn histogram<const N: usize>(&mut self, name: &str, help: &str, histogram: &Histogram<N>) {
        self.family(name, "histogram", help);
        let mut total = 0;
        for (bound, bucket) in histogram.bounds.iter().zip(&histogram.buckets) {
            total += bucket;
            self.sample(&format!("{name}_bucket"), &format!("le=\"{bound:?}\""), total);
        }
        self.sample(&format!("{name}_bucket"), "le=\"+Inf\"", histogram.count);
        self.sample(&format!("{name}_count"), "", histogram.count);
        self.sample(&format!("{name}_sum"), "", histogram.sum);
    }
}

/// The whole page; a lying engine claims to be idle.
fn render(facts: &Facts, status: &Status, shares: Shares, lie: bool) -> String {
    let labels = format!("engine=\"0\",model_name=\"{}\"", escape(facts.model()));
    let mut page = Page { out: String::with_capacity(16 * 1024), labels };
    load(&mut page, status, lie);
    totals(&mut page, status);
    page.histogram("vllm:time_to_first_token_seconds", "Time to first token.", &status.ttft);
    page.histogram("vllm:inter_token_latency_seconds", "Time between two tokens.", &status.itl);
    page.histogram("vllm:e2e_request_latency_seconds", "Time of whole requests.", &status.e2e);
    simulator(&mut page, facts, if lie { Shares::default() } else { shares });
    page.out
}

fn load(page: &mut Page, status: &Status, lie: bool) {
    let truth = |value: usize| if lie { 0 } else { value };
    let kv = if lie { 0.0 } else { status.kv_used_ratio() };
    let waiting = truth(status.waiting);
    page.single("vllm:num_requests_running", "gauge", "Requests in the batch.", truth(status.running));
    page.single("vllm:num_requests_waiting", "gauge", "Requests in the queue.", waiting);
    page.family("vllm:num_requests_waiting_by_reason", "gauge", "Requests in the queue by reason.");
    page.sample("vllm:num_requests_waiting_by_reason", "reason=\"capacity\"", waiting);
    page.sample("vllm:num_requests_waiting_by_reason", "reason=\"deferred\"", 0);
    page.single("vllm:kv_cache_usage_perc", "gauge", "Used share of the KV cache, 0 to 1.", kv);
    let blocks = status.kv_blocks;
    let tokens = u64::from(blocks) * u64::from(BLOCK_TOKENS);
    let config = format!(
        "block_size=\"{BLOCK_TOKENS}\",enable_prefix_caching=\"True\",gpu_memory_utilization=\"0.9\",\
         kv_cache_size_tokens=\"{tokens}\",num_gpu_blocks=\"{blocks}\""
    );
    page.family("vllm:cache_config_info", "gauge", "Configuration of the KV cache.");
    page.sample("vllm:cache_config_info", &config, 1);
}

fn totals(page: &mut Page, status: &Status) {
    let c = &status.counters;
    let counters = [
        ("vllm:prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", c.prefix_queries),
        ("vllm:prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", c.prefix_hits),
        ("vllm:num_preemptions_total", "Requests sent back to the queue.", c.preemptions),
        ("vllm:prompt_tokens_total", "Prompt tokens processed.", c.prompt_tokens),
        ("vllm:prompt_tokens_cached_total", "Cached prompt tokens among them.", c.cached_tokens),
        ("vllm:generation_tokens_total", "Tokens generated.", c.generation_tokens),
    ];
    for (name, help, value) in counters {
        page.single(name, "counter", help, value);
    }
    page.family("vllm:request_success_total", "counter", "Requests that came to an end.");
    let reasons = [("stop", status.successes.stop), ("length", status.successes.length)];
    for (reason, value) in reasons.into_iter().chain([("abort", 0), ("error", 0)]) {
        page.sample("vllm:request_success_total", &format!("finished_reason=\"{reason}\""), value);
    }
}

fn simulator(page: &mut Page, facts: &Facts, shares: Shares) {
    page.family("aya_sim_info", "gauge", "What is simulated.");
    let _ = writeln!(
        page.out,
        "aya_sim_info{{profile=\"{}\",gpu_name=\"{}\",gpus=\"{}\",max_num_seqs=\"{}\",max_batched_tokens=\"{}\",\
         time_scale=\"{}\"}} 1",
        facts.named.name,
        facts.named.gpu_name,
        facts.named.gpus_per_engine,
        facts.profile.max_sequences,
        facts.profile.max_batched_tokens,
        facts.time_scale
    );
    page.own("aya_sim_busy_ratio", "Share of the last second spent in steps.", shares.busy);
    page.own("aya_sim_prefill_ratio", "Share of the last second spent on prompts.", shares.prefill);
    page.own("aya_sim_vram_used_bytes", "Memory taken over all GPUs of the engine.", facts.vram_used_bytes());
    let cost = facts.real_cost();
    page.family("aya_sim_step_cost", "gauge", "Coefficients of the cost of a step, in real seconds.");
    let coefficients = [
        ("base", cost.base_s),
        ("per_token", cost.per_token_s),
        ("overhead", cost.overhead_s),
        ("per_kv_token", cost.per_kv_token_s),
        ("attention", cost.attention_s),
    ];
    for (name, value) in coefficients {
        let _ = writeln!(page.out, "aya_sim_step_cost{{coefficient=\"{name}\"}} {value:e}");
    }
}

/// A label value in the text format.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
