//! Behaviour tests: one module per behaviour, one binary, so that they link once.
#![expect(unreachable_pub, reason = "support is shared by modules of one binary")]
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../support/mod.rs"]
mod support;

mod bans;
mod cli;
mod clients;
mod coherence;
mod coherence_bans;
mod coherence_failover;
mod coherence_model;
mod coherence_stale;
mod config;
mod docker;
mod drain;
mod embedded_crash;
mod embedded_store;
mod explain;
mod gear;
mod glob;
mod grpc_cache;
mod grpc_deadline;
mod grpc_limits;
mod grpc_pipeline;
mod grpc_services;
mod http;
mod image;
mod kill;
mod l2_away;
mod l2_behaviour;
mod l2_redis;
mod l2_redis_link;
mod learned;
mod logs;
mod nodes;
mod page;
mod prefetch;
mod readme;
mod redis_cli;
mod redis_topology;
mod replay;
mod resp_compat;
mod resp_port;
mod resp_session;
mod server;
mod slide;
mod stats;
mod stats_cli;
mod tags;
mod tidy;
mod traces;
mod ttl;
mod unix_sockets;
mod warm;
mod watch;
