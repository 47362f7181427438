//! A client's side of gRPC.

use std::{future::Future, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::PATIENCE;

/// Runs a client, and fails the test when it does not end.
pub fn block_on<F: Future>(client: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limited = async { tokio::time::timeout(PATIENCE, client).await };
    runtime.block_on(limited).expect("the test ends in time")
}

/// A connection to a server.
pub async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("the server accepts")
}

/// Waits for something the test cannot be told of.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}
