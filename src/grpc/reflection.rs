//! Server reflection v1 and v1alpha: tonic's service with the descriptors of Terrace and of grpc.health.v1.

use std::sync::LazyLock;

use http::Request;
use hyper::body::Incoming;
use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};
use tower_service::Service;

use super::{answer::Answer, unary::Call};
use crate::proto;

/// The reflection services, built on first use. `None` if the descriptors are invalid.
static ROUTES: LazyLock<Option<Routes>> = LazyLock::new(|| match routes() {
    Ok(routes) => Some(routes),
    Err(error) => {
        tracing::error!(%error, "disabled server reflection: the descriptors are invalid");
        None
    }
});

fn routes() -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

pub(super) fn call(request: Request<Incoming>) -> Call {
    let Some(mut routes) = ROUTES.clone() else {
        return Call::ready(
            tonic::Status::unimplemented("server reflection is disabled: the descriptors are invalid").into_http(),
        );
    };
    Call::Pending(Box::pin(async move {
        match routes.call(request).await {
            Ok(response) => response.map(Answer::Tonic),
            Err(never) => match never {},
        }
    }))
}
