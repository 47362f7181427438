//! The endpoints.

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    App,
    pages::{self, AppError},
};

/// Returns the endpoints of the service.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/teams/{team}/members/{id}", get(page))
        .route("/aside/teams/{team}/members/{id}", get(page_aside))
        .route("/teams/{team}/motto", put(change_motto))
        .route("/members/{id}/name", put(rename))
        .route("/database/{state}", post(set_database))
        .route("/stats", get(stats))
        .with_state(app)
}

async fn page(State(app): State<App>, Path((team, id)): Path<(String, i64)>) -> Result<Response, AppError> {
    Ok(found(pages::page(&app, &team, id).await?.as_deref()))
}

async fn page_aside(State(app): State<App>, Path((team, id)): Path<(String, i64)>) -> Result<Response, AppError> {
    Ok(found(pages::page_aside(&app, &team, id).await?.as_ref()))
}

async fn change_motto(State(app): State<App>, Path(team): Path<String>, motto: String) -> Result<StatusCode, AppError> {
    pages::change_motto(&app, &team, &motto).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(State(app): State<App>, Path(id): Path<i64>, name: String) -> Result<StatusCode, AppError> {
    pages::rename(&app, id, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Begins (`down`) or ends (`up`) a simulated outage of the database.
async fn set_database(State(app): State<App>, Path(state): Path<String>) -> StatusCode {
    match state.as_str() {
        "down" => app.database.set_down(true),
        "up" => app.database.set_down(false),
        _ => return StatusCode::NOT_FOUND,
    }
    StatusCode::NO_CONTENT
}

async fn stats(State(app): State<App>) -> Response {
    let cache = app.cache.stats().await.map_or_else(
        |error| json!({ "error": error.to_string() }),
        |nodes| {
            let loads = nodes.iter().filter_map(|(_, stats)| stats.loads.as_ref());
            let (granted, stored, failed, waited) = loads.fold((0, 0, 0, 0), |sum, loads| {
                let granted = loads.granted_miss + loads.granted_stale + loads.granted_early;
                (sum.0 + granted, sum.1 + loads.stored, sum.2 + loads.load_failed, sum.3 + loads.waited)
            });
            json!({ "loads": granted, "stored": stored, "failed": failed, "waited": waited })
        },
    );
    let near = app.cache.near_stats().map(|near| json!({ "hits": near.hits, "entries": near.entries }));
    json_of(&json!({ "database_queries": app.database.queries(), "cache": cache, "near_cache": near }))
}

fn found<T: Serialize>(page: Option<&T>) -> Response {
    page.map_or_else(|| (StatusCode::NOT_FOUND, "no such member\n").into_response(), json_of)
}

fn json_of<T: Serialize>(value: &T) -> Response {
    let text = serde_json::to_value(value).as_ref().map_or_else(ToString::to_string, Value::to_string);
    ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        let retry_after = match &self {
            Self::Cache(error) => error.retry_after(),
            Self::Database(_) => None,
        };
        // Rounded up to a whole second, as HTTP requires.
        let seconds = retry_after.map_or(1, |delay| delay.as_millis().div_ceil(1_000));
        let headers = [(header::RETRY_AFTER, seconds.to_string())];
        (StatusCode::SERVICE_UNAVAILABLE, headers, format!("{self}\n")).into_response()
    }
}
