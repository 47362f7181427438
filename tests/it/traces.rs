//! Traces: spans of gRPC calls reach a collector, continue the traceparent of the caller, and contain no key. Without
//! the feature `otel` the setting is rejected by name.

#[cfg(not(feature = "otel"))]
#[test]
fn a_build_without_traces_says_so() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_terrace"))
        .args(["config", "--trace-otlp", "http://127.0.0.1:4317"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--features otel"));
}

#[cfg(feature = "otel")]
mod with_otel {
    use std::sync::{Arc, Mutex};

    use http_body_util::{BodyExt, Full};
    use hyper::{Request, Response, body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use terrace::proto::{GetRequest, SetRequest};

    use crate::support::{
        eventually,
        grpc::{bare_call, block_on},
        process::Process,
        redis::RedisServer,
    };

    /// A collector: keeps what is sent to it, as it is.
    struct Collector {
        address: String,
        received: Arc<Mutex<Vec<u8>>>,
    }

    impl Collector {
        fn start() -> Self {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let received = Arc::new(Mutex::new(Vec::new()));
            let keep = Arc::clone(&received);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(serve(listener, keep));
            });
            Self { address, received }
        }

        fn has(&self, bytes: &[u8]) -> bool {
            self.received.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
        }
    }

    async fn serve(listener: std::net::TcpListener, keep: Arc<Mutex<Vec<u8>>>) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let keep = Arc::clone(&keep);
            let answer = service_fn(move |request: Request<Incoming>| {
                let keep = Arc::clone(&keep);
                async move {
                    assert!(request.uri().path().ends_with("TraceService/Export"));
                    let body = request.into_body().collect().await?.to_bytes();
                    keep.lock().unwrap().extend_from_slice(&body);
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        http::HeaderValue::from_static("0"),
                    )]);
                    let empty = Full::<bytes::Bytes>::from(&[0_u8, 0, 0, 0, 0][..]);
                    let body = empty.with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, hyper::Error>(
                        Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                    )
                }
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer),
            );
        }
    }

    const TRACE: [u8; 16] =
        [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
    const PARENT: [u8; 8] = [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];

    #[test]
    fn a_traced_call_is_a_span_of_its_callers_trace_and_others_are_not() {
        let (redis, collector, data) = (RedisServer::start(), Collector::start(), tempfile::tempdir().unwrap());
        let (l2, otlp) = (redis.url(), format!("http://{}", collector.address));
        let args = ["--l2", &l2, "--trace-otlp", &otlp, "--l2-read-timeout", "30s", "--l2-write-timeout", "30s"];
        let node = Process::start(data.path(), &args);
        let call = |path: &str, flags: &str, message: &GetRequest| {
            let traceparent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
            block_on(bare_call(&node.grpc, path, &[("traceparent", &traceparent)], message))
        };
        let set = SetRequest { key: "secret".into(), value: "v".into(), ..SetRequest::default() };
        block_on(bare_call(&node.grpc, "/terrace.v1.Cache/Set", &[], &set));
        let get = GetRequest { key: "secret".into(), options: None };
        call("/terrace.v1.Cache/GetMeta", "00", &get);
        assert_eq!(call("/terrace.v1.Cache/Get", "01", &get).code(), tonic::Code::Ok);
        eventually("the span is there", || collector.has(b"terrace.v1.Cache/Get") && collector.has(b"read L2"));
        assert!(collector.has(&TRACE) && collector.has(&PARENT));
        assert!(!collector.has(b"secret") && !collector.has(b"Cache/Set"), "no key, and no call that nobody traces");
        assert!(!collector.has(b"GetMeta"), "its caller does not sample it");
    }
}
