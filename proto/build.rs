//! Compiles the contract with a compiler written in Rust, so that a build needs no `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(["aya/agent/v1/agent.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("contract.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).emit_rerun_if_changed(false).compile_fds(set)?;
    Ok(())
}
