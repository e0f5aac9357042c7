//! What the measurements measure on: farms, reports and request bodies of realistic shape, the same in every run.
//!
//! `benches/*.rs` time single functions with criterion; `aya-bench` measures real processes; `tests/` holds what
//! must not depend on a machine, such as the number of allocations. METHOD.md says how to read all of it.

pub mod inputs;
