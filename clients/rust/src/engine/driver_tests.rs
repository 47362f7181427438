//! Connections that a server announces to end (GOAWAY), against a server that the test plays.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{SendResponse, handshake},
};
use http::{HeaderMap, Request, Response};
use prost::Message;
use terrace_proto::{
    Found, GetResponse, OperationResult, PipelineRequest, PipelineResponse, get_response, operation::Operation,
    operation_result::Result as Answer,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use super::super::messages::Messages;
use crate::{Client, ErrorKind};

const LONG: std::time::Duration = std::time::Duration::from_secs(60);

/// A server whose answer to each read is the number of the connection.
#[derive(Default)]
struct Server {
    connections: AtomicU64,
    /// Lets the oldest connection announce its end.
    goaway: Notify,
    /// Lets reads of the key `held` continue.
    release: Notify,
    /// Store that the server names, and the first connection on which it does.
    store: Option<(&'static str, u64)>,
}

impl Server {
    async fn start() -> (String, Arc<Self>) {
        Self::default().listen().await
    }

    async fn listen(self) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Arc::new(self);
        let accepting = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(stream));
            }
        });
        (address, server)
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let number = self.connections.fetch_add(1, SeqCst) + 1;
        let mut connection = handshake(stream).await.unwrap();
        loop {
            let next = tokio::select! {
                next = connection.accept() => next,
                () = self.goaway.notified(), if number == 1 => {
                    connection.graceful_shutdown();
                    continue;
                }
            };
            let Some(Ok((request, respond))) = next else { return };
            tokio::spawn(Arc::clone(&self).answer(number, request, respond));
        }
    }

    async fn answer(self: Arc<Self>, number: u64, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let mut response = Response::builder().header("content-type", "application/grpc");
        if let Some((store, _)) = self.store.filter(|(_, first)| number >= *first) {
            response = response.header("terrace-store-id", store);
        }
        let mut sender = respond.send_response(response.body(()).unwrap(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        if !request.uri().path().ends_with("Pipeline") {
            // Health: SERVING.
            sender.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false).unwrap();
            sender.send_trailers(trailers).unwrap();
            return;
        }
        let (mut body, mut messages) = (request.into_body(), Messages::new(1 << 20));
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            messages.push(data);
            while let Some(message) = messages.next().unwrap() {
                for operation in PipelineRequest::decode(message).unwrap().operations {
                    let Some(Operation::Get(get)) = operation.operation else { continue };
                    if get.key == "held" {
                        self.release.notified().await;
                    }
                    let found = Found { value: number.to_string().into(), ..Found::default() };
                    let result = Answer::Get(GetResponse { result: Some(get_response::Result::Found(found)) });
                    let results = vec![OperationResult { id: operation.id, result: Some(result) }];
                    let message = PipelineResponse { results }.encode_to_vec();
                    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
                    sender.send_data([&[0], &len[..], &message].concat().into(), false).unwrap();
                }
            }
        }
        sender.send_trailers(trailers).unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_is_announced_to_end_is_replaced_and_read_to_its_end() {
    let (address, server) = Server::start().await;
    let client = Client::builder(address).read_timeout(LONG).connect_timeout(LONG).connect().await.unwrap();
    assert_eq!(client.get("key").await.unwrap().unwrap(), "1");
    let held = tokio::spawn(client.get("held").into_future());
    while client.operations_in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    server.goaway.notify_one();
    // The connection is still used until the client sees the announcement at its next health check.
    while server.connections.load(SeqCst) < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // Until the new connection takes the operations, they queue behind the held one.
    let short = std::time::Duration::from_millis(200);
    while !client.get("key").timeout(short).await.is_ok_and(|value| value.is_some_and(|value| value == "2")) {}
    // The old stream is read to its end.
    while client.operations_in_progress() > 1 {
        tokio::task::yield_now().await;
    }
    server.release.notify_one();
    assert_eq!(held.await.unwrap().unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_node_that_learns_its_store_late_is_compared_then() {
    let (first, _) = Server { store: Some(("a", 1)), ..Server::default() }.listen().await;
    let (late, server) = Server { store: Some(("b", 2)), ..Server::default() }.listen().await;
    let targets = format!("{first},{late}");
    let client = Client::builder(targets).read_timeout(LONG).connect_timeout(LONG).connect().await.unwrap();
    let nodes = client.origin().core.backend.nodes();
    let fault = || nodes.iter().find(|node| node.name == late).and_then(|node| node.link.fault());
    let is_refused = async {
        while !fault().is_some_and(|fault| fault.kind() == ErrorKind::FailedPrecondition) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, is_refused).await.expect("the node is asked again");
    assert!(server.connections.load(SeqCst) >= 2);
    for key in 0..20 {
        assert!(client.get(key.to_string()).await.unwrap().is_some(), "the node that was first stays in use");
    }
}
