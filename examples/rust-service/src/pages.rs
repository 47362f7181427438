//! Pages of team members: reads through the cache, and changes that invalidate cached pages.

use std::sync::Arc;

use terrace_client::cached;

use crate::{
    App,
    database::{DatabaseError, Page},
};

/// A page could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The cache failed, or the database failed in a load; `source()` is the error of the database.
    #[error(transparent)]
    Cache(#[from] terrace_client::Error),
}

/// Returns the page of a member; `None` if the team has no such member.
///
/// All processes together query the database once for each page that is absent or due for a refresh.
///
/// # Errors
/// The page is not in the cache, and the database fails.
#[cached(
    key = "team:{team}:member:{id}",
    client = app.cache,
    ttl = app.lifetimes.ttl,
    stale = app.lifetimes.stale,
    negative_ttl = "10s",
    load_timeout = "10s",
    tags = ["team:{team}", "member:{id}"]
)]
pub async fn page(app: &App, team: &str, id: i64) -> Result<Option<Arc<Page>>, AppError> {
    Ok(app.database.page(team, id).await?.map(Arc::new))
}

/// Returns the page of a member as many services do today: get, query, set. It exists for comparison.
///
/// # Errors
/// The page is not in the cache, and the database fails.
pub async fn page_aside(app: &App, team: &str, id: i64) -> Result<Option<Page>, AppError> {
    let key = format!("aside:team:{team}:member:{id}");
    if let Ok(Some(value)) = app.cache.get(&key).await
        && let Ok(page) = serde_json::from_slice(&value)
    {
        return Ok(Some(page));
    }
    let page = app.database.page(team, id).await?;
    if let Some(value) = page.as_ref().and_then(|page| serde_json::to_vec(page).ok()) {
        let tags = [format!("team:{team}"), format!("member:{id}")];
        // The caller has its page, whether the cache stores it or not.
        let _stored = app.cache.set(key, value).ttl(app.lifetimes.ttl).tags(tags).await;
    }
    Ok(page)
}

/// Changes the motto of a team, which is on the pages of all its members.
///
/// # Errors
/// The database fails, or the cache cannot be reached: its pages are then old until they are refreshed.
pub async fn change_motto(app: &App, team: &str, motto: &str) -> Result<(), AppError> {
    app.database.change_motto(team, motto).await?;
    app.cache.invalidate_tags([format!("team:{team}")]).await?;
    Ok(())
}

/// Changes the name of a member.
///
/// # Errors
/// As [`change_motto`].
pub async fn rename(app: &App, id: i64, name: &str) -> Result<(), AppError> {
    app.database.rename(id, name).await?;
    app.cache.invalidate_tags([format!("member:{id}")]).await?;
    Ok(())
}
