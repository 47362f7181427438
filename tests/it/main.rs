//! Integration tests: one module for each behavior, in one binary, so that it is linked once.
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
mod config_set;
mod docker;
mod docs;
mod drain;
mod embedded_crash;
mod embedded_full;
mod embedded_store;
mod explain;
mod extremes;
mod flush_bans;
mod glob;
mod grpc_cache;
mod grpc_deadline;
mod grpc_isolation;
mod grpc_limits;
mod grpc_pipeline;
mod grpc_services;
mod http;
mod http_limits;
mod image;
mod l2_away;
mod l2_behavior;
mod l2_redis;
mod l2_redis_link;
mod learned_state;
mod logs;
mod own_records;
mod page;
mod prefetch;
mod prose;
mod redis_cli;
mod redis_topology;
mod replay;
mod resp_compat;
mod resp_keys;
mod resp_port;
mod resp_session;
mod server;
mod server_kill;
mod shared_redis;
mod stats;
mod stats_cli;
mod support_tests;
mod tags;
mod tidy;
mod tidy_tests;
mod touch_on_read;
mod traces;
mod ttl;
mod unix_sockets;
mod warm;
mod watch;
