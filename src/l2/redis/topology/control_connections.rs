//! Connections for topology queries: one to each cluster member or Sentinel, kept open between queries.

use std::{collections::HashMap, time::Duration};

use ::redis::{Pipeline, Value};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::l2::redis::{
    connection::connect::{self, Dialer, Opened},
    url::Endpoint,
};

/// Deadline of one topology query; a member that misses it is queried again in the next round.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// Maximum number of control connections that are kept open to members of a cluster.
const KEPT_MAX: usize = 512;

/// Open connections for topology queries.
pub(crate) struct ControlConnections {
    dialer: Dialer,
    open: HashMap<Endpoint, Opened>,
}

impl ControlConnections {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, open: HashMap::new() }
    }

    /// Queries all `endpoints` in parallel; returns those with a complete answer.
    pub(crate) async fn ask(&mut self, endpoints: &[Endpoint], questions: &Pipeline) -> Vec<(Endpoint, Vec<Value>)> {
        let dialer = &self.dialer;
        let asked = endpoints.iter().map(|endpoint| {
            let known = self.open.remove(endpoint);
            async move {
                let answer = timeout(ANSWER_WITHIN, ask_one(dialer, endpoint, known, questions)).await;
                (endpoint, answer.ok().flatten())
            }
        });
        let mut answers = Vec::with_capacity(endpoints.len());
        for (endpoint, answer) in join_all(asked).await {
            if let Some((opened, replies)) = answer {
                if self.open.len() < KEPT_MAX {
                    self.open.insert(endpoint.clone(), opened);
                }
                answers.push((endpoint.clone(), replies));
            }
        }
        answers
    }

    /// Closes all connections to members that are not in `endpoints`.
    pub(crate) fn keep_only(&mut self, endpoints: &[Endpoint]) {
        self.open.retain(|endpoint, _| endpoints.contains(endpoint));
    }
}

/// Queries on the known connection; opens a new connection if there is none or it was lost.
async fn ask_one(
    dialer: &Dialer,
    endpoint: &Endpoint,
    known: Option<Opened>,
    questions: &Pipeline,
) -> Option<(Opened, Vec<Value>)> {
    if let Some(mut opened) = known
        && let Ok(replies) = connect::ask(&mut opened, questions).await
    {
        return Some((opened, replies));
    }
    let mut opened = connect::control(endpoint, dialer).await.ok()?;
    let replies = connect::ask(&mut opened, questions).await.ok()?;
    Some((opened, replies))
}
