//! The service grpc.health.v1. `""` and `terrace.v1.Cache` are SERVING from the first contact with L2 until the drain,
//! like `/readyz`. `terrace.l2` reports the current state of L2.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, BoxStream, StreamExt};
use http::Request as HttpRequest;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use tower_service::Service;

use super::{Edge, answer::Answer, unary::Call};
use crate::cache::State;

/// Interval at which a Watch checks for a change of state.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The health service of one connection.
#[derive(Clone)]
struct Probe {
    edge: Arc<Edge>,
    stop: watch::Receiver<bool>,
}

impl Probe {
    /// Returns the state of a service; `None` if the service is unknown.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let serving = match service {
            "" | "terrace.v1.Cache" => self.edge.cache.l2_reached() && !self.draining(),
            "terrace.l2" => self.edge.cache.l2_state() == State::Up,
            _ => return None,
        };
        Some(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
    }

    fn draining(&self) -> bool {
        *self.stop.borrow() || self.edge.node.is_draining()
    }

    /// Waits for a state other than `last`. Returns `None` after the state of the drain has been sent.
    async fn next(mut self, service: String, last: Option<ServingStatus>) -> Option<(ServingStatus, Self, String)> {
        loop {
            let stopping = *self.stop.borrow_and_update();
            let now = self.status(&service).unwrap_or(ServingStatus::ServiceUnknown);
            if last != Some(now) {
                return Some((now, self, service));
            }
            // An endless stream would block the drain.
            if stopping {
                return None;
            }
            // Ends early when the drain begins or the sender was dropped; the loop handles both.
            let _elapsed = tokio::time::timeout(WATCH_INTERVAL, self.stop.wait_for(|stop| *stop)).await;
        }
    }
}

#[tonic::async_trait]
impl Health for Probe {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let unknown =
            || Status::not_found(format!("unknown service {service:?}; expected \"\", terrace.v1.Cache or terrace.l2"));
        Ok(Response::new(answer(self.status(&service).ok_or_else(unknown)?)))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let first = (self.clone(), request.into_inner().service, None);
        let states = stream::unfold(first, |(probe, service, last)| async move {
            let (now, probe, service) = probe.next(service, last).await?;
            Some((Ok(answer(now)), (probe, service, Some(now))))
        });
        Ok(Response::new(states.boxed()))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

pub(super) fn call(edge: &Arc<Edge>, stop: watch::Receiver<bool>, request: HttpRequest<Incoming>) -> Call {
    let mut service = HealthServer::new(Probe { edge: Arc::clone(edge), stop });
    Call::Pending(Box::pin(async move {
        match service.call(request).await {
            Ok(response) => response.map(Answer::Tonic),
            Err(never) => match never {},
        }
    }))
}
