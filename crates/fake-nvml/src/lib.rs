//! NVIDIA's management library without an NVIDIA GPU: the C ABI of `libnvidia-ml.so.1`, driven by a scenario file.
//!
//! Programs load `libaya_fake_nvml.so` in its place, and the code that reads real GPUs runs unchanged. The scenario
//! is read from the path in `AYA_FAKE_NVML_SCENARIO`, else from `<path of the .so>.json`, and again whenever that
//! file changes; a file that cannot be used leaves the last good state in force. What makes it worth having is
//! fidelity of refusals: which call answers "not supported" where, and how a lost GPU, a hanging driver and an XID
//! look from outside.
//!
//! It never waits while it holds its lock, never follows a handle as a pointer, and never panics: a panic would
//! take the calling program with it.

pub mod abi;
mod exports;
pub mod scenario;
mod state;

pub use exports::EXPORTS;
