//! The generated client stubs.

pub use crate::proto::{
    admin_client::AdminClient, cache_client::CacheClient, insight_client::InsightClient,
    invalidation_client::InvalidationClient,
};
