//! Compiles the protos into `OUT_DIR` with protox, so that nobody needs protoc and nothing generated is committed.

use std::{env, fs, path::PathBuf};

const PROTOS: [&str; 4] =
    ["terrace/v1/cache.proto", "terrace/v1/insight.proto", "terrace/v1/invalidation.proto", "terrace/v1/admin.proto"];

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts through the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Served by gRPC reflection.
    fs::write(out.join("terrace_descriptor.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // Values stay slices of the message they came in.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
