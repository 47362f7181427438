//! Terrace: a shared cache server. Services talk gRPC to it, people look into it with redis-cli, hot data sits in its
//! memory (L1), everything in Redis or an embedded store (L2).

pub mod cache;
pub mod clock;
pub mod config;
pub mod error;
pub mod glob;
pub mod grpc;
pub mod http;
pub mod jobs;
pub mod l1;
pub mod l2;
pub mod model;
pub mod node;
pub mod resp;
pub mod server;

/// The generated messages and services of `proto/terrace/v1`.
pub mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        unused_qualifications,
        clippy::all,
        clippy::wildcard_enum_match_arm,
        clippy::unwrap_used,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("terrace.v1");
    /// What reflection serves.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/terrace_descriptor.bin"));
}
