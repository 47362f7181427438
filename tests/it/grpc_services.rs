//! Health, reflection, Insight and Admin over gRPC.

use prost::Message;
use prost_types::FileDescriptorSet;
use terrace::{
    grpc::client::{AdminClient, CacheClient, InsightClient},
    proto::{
        self, FlushAll, FlushRequest, GetConfigRequest, GetRequest, GetStatsRequest, ScanKeysRequest, SetRequest,
        TierSelection, flush_request::Keys,
    },
};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::support::{
    grpc::{block_on, connect, raw_call},
    terrace::{Terrace, config},
};

async fn health(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await;
    answer.map(|answer| answer.into_inner().status()).map_err(|status| status.code())
}

#[test]
fn health_tells_of_the_server_and_of_l2() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        for service in ["", "terrace.v1.Cache", "terrace.l2"] {
            assert_eq!(health(&channel, service).await, Ok(ServingStatus::Serving), "{service}");
        }
        assert_eq!(health(&channel, "terrace.v2.Cache").await, Err(Code::NotFound));
    });
}

#[test]
fn health_is_not_ready_while_l2_was_never_reached() {
    let mut config = config();
    // No process listens on port 1.
    config.l2.url = "redis://127.0.0.1:1".into();
    let server = Terrace::start(config);
    block_on(async {
        let channel = connect(server.grpc()).await;
        for service in ["", "terrace.v1.Cache", "terrace.l2"] {
            assert_eq!(health(&channel, service).await, Ok(ServingStatus::NotServing), "{service}");
        }
    });
}

#[test]
fn a_watch_tells_of_the_drain_and_ends() {
    let mut server = Terrace::start(config());
    block_on(async {
        let mut client = HealthClient::new(connect(server.grpc()).await);
        let mut states = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(states.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        let unknown = HealthCheckRequest { service: "no such".to_owned() };
        let mut others = client.watch(unknown).await.unwrap().into_inner();
        assert_eq!(others.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
        server.begin_stop();
        assert_eq!(states.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        assert!(states.message().await.unwrap().is_none());
        assert!(others.message().await.unwrap().is_none());
    });
    server.stop();
}

#[test]
fn reflection_lists_the_services() {
    let server = Terrace::start(config());
    block_on(async {
        let mut client = ServerReflectionClient::new(connect(server.grpc()).await);
        let ask = |ask| ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
        let symbol = MessageRequest::FileContainingSymbol("terrace.v1.Cache.Get".to_owned());
        let requests = [ask(MessageRequest::ListServices(String::new())), ask(symbol)];
        let answers = client.server_reflection_info(futures_util::stream::iter(requests)).await;
        let mut answers = answers.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) =
            answers.message().await.unwrap().unwrap().message_response
        else {
            panic!("no list");
        };
        let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        for name in ["terrace.v1.Cache", "terrace.v1.Insight", "terrace.v1.Admin", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|listed| listed == name), "{name} is not among {names:?}");
        }
        let described = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(described, Some(MessageResponse::FileDescriptorResponse(_))), "{described:?}");
        let mut alpha = tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient::new(
            connect(server.grpc()).await,
        );
        let nothing = alpha.server_reflection_info(futures_util::stream::empty()).await.unwrap();
        assert!(nothing.into_inner().message().await.unwrap().is_none());
    });
}

/// The router lists the methods by name; this test finds a missing one.
#[test]
fn every_method_of_the_protos_is_served() {
    let server = Terrace::start(config());
    let descriptors = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let mut seen = 0;
    block_on(async {
        let mut channel = connect(server.grpc()).await;
        for service in descriptors.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("/terrace.v1.{}/{}", service.name(), method.name());
                // An empty message is a valid request of every type. An invalid message ends a stream that would
                // otherwise never end.
                let is_endless = method.name().starts_with("Watch") || method.name() == "RecordReads";
                let body: &[u8] = if is_endless { b"\0\0\0\0\x01\xff" } else { b"\0\0\0\0\0" };
                let answer = raw_call(&mut channel, &path, body).await;
                assert_ne!(answer.code(), Code::Unimplemented, "{path}");
                seen += 1;
            }
        }
        let answer = raw_call(&mut channel, "/terrace.v1.Cache/Gat", b"\0\0\0\0\0").await;
        assert_eq!(answer.code(), Code::Unimplemented);
        assert!(answer.message().contains("/terrace.v1.Cache/Gat"), "{answer}");
    });
    assert!(seen >= 12, "the descriptors hold {seen} methods");
}

#[test]
fn statistics_tell_of_reads_sizes_and_clients() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut cache = CacheClient::new(channel.clone());
        cache.set(SetRequest { key: "k".into(), value: "v".into(), ..SetRequest::default() }).await.unwrap();
        for key in ["k", "k", "absent"] {
            cache.get(GetRequest { key: key.into(), options: None }).await.unwrap();
        }
        let stats = InsightClient::new(channel).get_stats(GetStatsRequest {}).await.unwrap().into_inner();
        let (reads, l1, l2) = (stats.reads.unwrap(), stats.l1.unwrap(), stats.l2.unwrap());
        assert_eq!((reads.hit_l1, reads.miss), (2, 1));
        assert!(l1.entries == 1 && l1.bytes > 0 && l1.capacity_bytes >= l1.bytes, "{l1:?}");
        assert_eq!((l2.kind.as_str(), l2.up), ("none", true));
        assert!(stats.coherence.unwrap().open);
        assert_eq!(stats.connections.unwrap().grpc, 1);
    });
}

async fn scan(client: &mut AdminClient<Channel>, request: ScanKeysRequest) -> Result<Vec<String>, Code> {
    let mut pages = client.scan_keys(request).await.map_err(|status| status.code())?.into_inner();
    let mut keys = Vec::new();
    while let Some(page) = pages.message().await.map_err(|status| status.code())? {
        keys.extend(page.keys.iter().map(|key| String::from_utf8(key.to_vec()).unwrap()));
    }
    keys.sort();
    Ok(keys)
}

#[test]
fn a_scan_lists_what_matches() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut cache = CacheClient::new(channel.clone());
        let mut admin = AdminClient::new(channel);
        for number in 0..3000 {
            let key = format!("{}:{number}", if number % 2 == 0 { "even" } else { "odd" });
            cache.set(SetRequest { key: key.into(), ..SetRequest::default() }).await.unwrap();
        }
        let matching =
            |pattern: &'static str| ScanKeysRequest { pattern: pattern.into(), ..ScanKeysRequest::default() };
        assert_eq!(scan(&mut admin, matching("")).await.unwrap().len(), 3000);
        assert_eq!(scan(&mut admin, matching("odd:*")).await.unwrap().len(), 1500);
        assert_eq!(scan(&mut admin, matching("even:2")).await.unwrap(), ["even:2"]);
        let l1 = ScanKeysRequest { tier: TierSelection::L1Only.into(), limit: 7, ..matching("odd:*") };
        assert_eq!(scan(&mut admin, l1).await.unwrap().len(), 7);
        let l2 = ScanKeysRequest { tier: TierSelection::L2Only.into(), ..matching("") };
        assert_eq!(scan(&mut admin, l2).await, Err(Code::InvalidArgument));
        let long = ScanKeysRequest { pattern: vec![b'*'; 1025].into(), ..matching("") };
        assert_eq!(scan(&mut admin, long).await, Err(Code::InvalidArgument));
    });
}

#[test]
fn the_configuration_is_shown_with_its_sources() {
    let server = Terrace::start(config());
    let setting = terrace::node::Setting {
        key: "l1.size".to_owned(),
        value: "64MiB".to_owned(),
        source: "flag --l1-size".to_owned(),
        reloadable: false,
    };
    server.node.settings.store(std::sync::Arc::new(vec![setting]));
    block_on(async {
        let mut admin = AdminClient::new(connect(server.grpc()).await);
        let entries = admin.get_config(GetConfigRequest {}).await.unwrap().into_inner().entries;
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].key.as_str(), entries[0].source.as_str()), ("l1.size", "flag --l1-size"));
    });
}

#[test]
fn a_flush_removes_what_is_said_twice() {
    let server = Terrace::start(config());
    block_on(async {
        let channel = connect(server.grpc()).await;
        let mut cache = CacheClient::new(channel.clone());
        let mut admin = AdminClient::new(channel);
        for key in ["a*:1", "a*:2", "ab:1", "b"] {
            cache.set(SetRequest { key: key.into(), ..SetRequest::default() }).await.unwrap();
        }
        let all = || Some(Keys::All(FlushAll {}));
        let prefix = |prefix: &'static str| Some(Keys::Prefix(prefix.into()));
        for (keys, confirm, told) in [
            (None, "", "all"),
            (all(), "", "flush all"),
            (all(), "a*", "flush all"),
            (prefix("a*"), "flush all", "a*"),
            (prefix(""), "", "all"),
            (prefix("__terrace:"), "__terrace:", "reserved"),
        ] {
            let status = admin.flush(FlushRequest { keys, confirm: confirm.into() }).await.expect_err("it is refused");
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(status.message().contains(told), "{status}");
        }
        assert_eq!(scan(&mut admin, ScanKeysRequest::default()).await.unwrap().len(), 4);
        admin.flush(FlushRequest { keys: prefix("a*"), confirm: "a*".into() }).await.unwrap();
        assert_eq!(scan(&mut admin, ScanKeysRequest::default()).await.unwrap(), ["ab:1", "b"]);
        admin.flush(FlushRequest { keys: all(), confirm: "flush all".into() }).await.unwrap();
        assert!(scan(&mut admin, ScanKeysRequest::default()).await.unwrap().is_empty());
    });
}
