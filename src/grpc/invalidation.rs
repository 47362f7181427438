//! The methods of `terrace.v1.Invalidation`.

use std::{sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use tokio::time::sleep;
use tonic::Status;

use super::{
    Edge, convert,
    service::check_batch,
    stream::{self, Output},
    unary::Call,
};
use crate::{
    cache::{Invalidation, SweepProgress, invalidate::pattern_bans::check_pattern},
    error::Result,
    glob::Glob,
    proto::{
        InvalidatePatternRequest, InvalidatePatternResponse, InvalidateTagsRequest, InvalidateTagsResponse,
        invalidate_pattern_request::Keys,
    },
};

/// Minimum interval between two progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

impl Edge {
    pub(super) async fn invalidate_tags(&self, request: InvalidateTagsRequest) -> Result<InvalidateTagsResponse> {
        check_batch(request.tags.len(), "tags")?;
        Ok(InvalidateTagsResponse { invalidated: self.cache.invalidate_tags(request.tags).await? })
    }
}

pub(super) fn invalidate_pattern(edge: Arc<Edge>, request: Request<Incoming>) -> Call {
    stream::call(&Arc::clone(&edge), |output| async move { run(&edge, request, &output).await })
}

async fn run(edge: &Arc<Edge>, request: Request<Incoming>, output: &Output) -> Result<(), Status> {
    let (request, _held): (InvalidatePatternRequest, _) = stream::received(edge, request).await?;
    let glob = pattern(&request).map_err(|error| convert::status(&error))?;
    if request.dry_run {
        return count(edge, glob, output).await;
    }
    let invalidation = edge.cache.invalidate_pattern(glob).await.map_err(|error| convert::status(&error))?;
    follow(edge, invalidation, request.wait, output).await
}

/// Returns the pattern of the keys to invalidate.
///
/// # Errors
/// `InvalidArgument` for an invalid pattern, or if neither pattern nor prefix is set.
fn pattern(request: &InvalidatePatternRequest) -> Result<Glob> {
    let glob = match &request.keys {
        Some(Keys::Pattern(pattern)) => Glob::new(pattern)?,
        Some(Keys::Prefix(prefix)) => Glob::of_prefix(prefix)?,
        None => return Err(convert::invalid("neither pattern nor prefix is set; set one of them".to_owned())),
    };
    check_pattern(&glob)?;
    Ok(glob)
}

async fn count(edge: &Arc<Edge>, glob: Glob, output: &Output) -> Result<(), Status> {
    let mut counting = edge.cache.count_matching(glob).await.map_err(|error| convert::status(&error))?;
    while let Some(progress) = counting.next().await.map_err(|error| convert::status(&error))? {
        if !send_progress(edge, 0, progress, output).await? {
            break;
        }
    }
    Ok(())
}

async fn follow(edge: &Arc<Edge>, invalidation: Invalidation, wait: bool, output: &Output) -> Result<(), Status> {
    let Invalidation { ban, mut progress } = invalidation;
    loop {
        let now = *progress.borrow_and_update();
        if !send_progress(edge, ban, now, output).await? || now.done || !wait {
            return Ok(());
        }
        sleep(PROGRESS_INTERVAL).await;
        if progress.changed().await.is_err() {
            return Err(Status::unavailable(
                "the server is stopping; the removal continues on another node, or on this node after its restart",
            ));
        }
    }
}

/// Sends the progress. Returns false if the client has disconnected.
async fn send_progress(edge: &Arc<Edge>, ban: u64, progress: SweepProgress, output: &Output) -> Result<bool, Status> {
    let SweepProgress { total, scanned, removed, removed_l1, done } = progress;
    // The numbers of scanned keys are of all clients.
    let (total, scanned) = if edge.principal().sees_all() { (total, scanned) } else { (removed, removed) };
    let message = InvalidatePatternResponse { ban, total, scanned, removed, done, removed_l1 };
    Ok(output.send(Ok(stream::frame(edge, &message)?)).await.is_ok())
}
