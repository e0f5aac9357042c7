//! libFuzzer on one parser; what must hold is in `aya_fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| aya_fuzzing::run("telemetry", input));
