//! Compiles the proto files into `OUT_DIR` with protox, so that the build needs no protoc and the repository contains
//! no generated code.

use std::{env, fs, path::PathBuf};

const PROTOS: [&str; 4] =
    ["terrace/v1/cache.proto", "terrace/v1/insight.proto", "terrace/v1/invalidation.proto", "terrace/v1/admin.proto"];

#[expect(clippy::disallowed_methods, reason = "cargo passes settings to build scripts in the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=terrace");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Server reflection serves this file.
    fs::write(out.join("terrace_descriptor.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        // The clients open their own connections.
        .build_transport(false)
        // Values stay slices of the received message.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
