//! A farm of real processes for tests: scheduler, agents, simulated engines, and clients that look closely.
//!
//! Every test starts a farm of its own on free ports, and ends with [`Farm::assert_accounted`]. What the
//! processes wrote to stderr is shown when a test fails. Nothing here reaches into a process: what a test
//! knows it learned as a client, an operator or the kernel would.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "support code of tests: a broken assumption is a failed test"
)]

mod accounts;
mod client;
mod farm;
mod host;
mod metrics;
mod process;
mod raw;
mod strict;
mod tap;
mod wait;

pub use client::{Answer, Client, Live};
pub use farm::{Agent, Engine, EnginePlan, Farm, FarmPlan, Scheduler, sim};
pub use host::GpuHost;
pub use metrics::Metrics;
pub use process::{Exit, Process};
pub use raw::{Raw, raw_exchange};
pub use strict::{Heard, read_strictly};
pub use tap::{Tap, tapped};
pub use wait::{PATIENCE, until, within};

use serde_json::{Value, json};

/// The model that the small profiles serve.
pub const MODEL: &str = "llama-3.1-8b";

/// Stands in every prompt; must never be seen in a log, a metric or a record.
pub const CANARY: &str = "canary-5f0c2e";

/// Whether tests that take minutes run too.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "a setting of a test run, not of the program")]
pub fn is_slow_run() -> bool {
    std::env::var("RUN_SLOW_TESTS").is_ok_and(|value| value == "1")
}

/// The path of the program under test.
#[macro_export]
macro_rules! aya {
    () => {
        env!("CARGO_BIN_EXE_aya-under-test")
    };
}

/// A chat request whose answer has exactly so many tokens.
#[must_use]
pub fn chat(tokens: u32) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": format!("tell me about {CANARY}")}],
        "max_tokens": tokens,
        "ignore_eos": true,
    })
}

/// The same, streamed.
#[must_use]
pub fn streamed(tokens: u32) -> Value {
    with(chat(tokens), &json!({"stream": true}))
}

/// An object with some fields added or replaced.
#[must_use]
pub fn with(mut body: Value, fields: &Value) -> Value {
    let fields = fields.as_object().expect("fields are an object").clone();
    body.as_object_mut().expect("a body is an object").extend(fields);
    body
}
