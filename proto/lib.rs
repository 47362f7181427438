//! Messages and client stubs of `terrace.v1`, generated from the proto files in this folder. Their comments are the
//! reference of the API.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, reason = "generated code")]

tonic::include_proto!("terrace.v1");

/// Descriptor set that server reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/terrace_descriptor.bin"));
