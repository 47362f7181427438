//! The yardstick of gRPC calls: methods that only return the message.

use bytes::Bytes;
use terrace::proto::{
    DeleteRequest, DeleteResponse, FillRequest, FillResponse, Found, GetManyRequest, GetManyResponse, GetManyResult,
    GetMetaRequest, GetMetaResponse, GetOrLeaseManyRequest, GetOrLeaseManyResponse, GetOrLeaseRequest,
    GetOrLeaseResponse, GetRequest, GetResponse, IncrementRequest, IncrementResponse, OperationResult, PipelineRequest,
    PipelineResponse, ReleaseRequest, ReleaseResponse, SetManyRequest, SetManyResponse, SetRequest, SetResponse, Tier,
    TouchRequest, TouchResponse, cache_server, get_many_result, get_response, operation_result,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

pub(crate) const VALUE_BYTES: usize = 100;

pub(crate) fn value() -> Bytes {
    vec![b'v'; VALUE_BYTES].into()
}

pub(crate) fn found() -> Found {
    Found { value: value(), tier: Tier::L1.into(), ..Found::default() }
}

/// A method that only returns the message.
struct Bare {
    found: Found,
}

#[tonic::async_trait]
impl cache_server::Cache for Bare {
    async fn get(&self, _request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Ok(Response::new(GetResponse { result: Some(get_response::Result::Found(self.found.clone())) }))
    }

    async fn get_many(&self, request: Request<GetManyRequest>) -> Result<Response<GetManyResponse>, Status> {
        let found = || GetManyResult { result: Some(get_many_result::Result::Found(self.found.clone())) };
        let results = request.into_inner().keys.iter().map(|_| found()).collect();
        Ok(Response::new(GetManyResponse { results }))
    }

    async fn set(&self, _request: Request<SetRequest>) -> Result<Response<SetResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn set_many(&self, _request: Request<SetManyRequest>) -> Result<Response<SetManyResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn delete(&self, _request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn touch(&self, _request: Request<TouchRequest>) -> Result<Response<TouchResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn increment(&self, _request: Request<IncrementRequest>) -> Result<Response<IncrementResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_meta(&self, _request: Request<GetMetaRequest>) -> Result<Response<GetMetaResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_or_lease(&self, _request: Request<GetOrLeaseRequest>) -> Result<Response<GetOrLeaseResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_or_lease_many(
        &self,
        _request: Request<GetOrLeaseManyRequest>,
    ) -> Result<Response<GetOrLeaseManyResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn fill(&self, _request: Request<FillRequest>) -> Result<Response<FillResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn release(&self, _request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type PipelineStream = futures_util::stream::BoxStream<'static, Result<PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        use futures_util::StreamExt;
        let found = self.found.clone();
        let answer = move |batch: PipelineRequest| {
            let result = |id| OperationResult {
                id,
                result: Some(operation_result::Result::Get(GetResponse {
                    result: Some(get_response::Result::Found(found.clone())),
                })),
            };
            PipelineResponse { results: batch.operations.iter().map(|operation| result(operation.id)).collect() }
        };
        Ok(Response::new(request.into_inner().map(move |batch| batch.map(&answer)).boxed()))
    }
}

/// Serves these methods with the server of tonic.
pub(crate) async fn serve_bare(listener: TcpListener) {
    let service = cache_server::CacheServer::new(Bare { found: found() });
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    server.await.expect("the server runs");
}
