//! Access control on every port: users, roles, prefixes, reloads.

mod tenants;

use std::{fs, path::PathBuf};

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::Value;
use terrace::{
    access::SecretHash,
    config::Config,
    proto::{
        self, DeleteRequest, ExplainRequest, FillRequest, FlushRequest, GetAssociationsRequest, GetConfigRequest,
        GetManyRequest, GetMetaRequest, GetOrLeaseManyRequest, GetOrLeaseRequest, GetRequest, GetStatsRequest,
        GetTtlAdviceRequest, IncrementRequest, InvalidateTagsRequest, LeaseItem, Operation, PipelineRequest,
        PredictRequest, RecordReadsRequest, ReleaseRequest, ScanKeysRequest, SetManyRequest, SetRequest,
        SimulateCapacityRequest, TopKeysRequest, TouchRequest, WarmRequest, WatchRequest, WatchStatsRequest,
        admin_client::AdminClient, cache_client::CacheClient, fill_request::Loaded, get_many_result,
        get_or_lease_many_result, get_or_lease_response, insight_client::InsightClient,
        invalidation_client::InvalidationClient, operation, set_many_result,
    },
    server::Server,
};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http::exchange,
    kv::by_pattern,
    process::Process,
    redis::RedisServer,
    resp::{Client, request},
    terrace::{Terrace, config, config_embedded, config_patient},
};

/// Users: the name is also the token.
const USERS: [(&str, &str); 6] = [
    ("root", "admin"),
    ("orders", "orders"),
    ("users", "users"),
    ("reader", "reader"),
    ("scraper", "scraper"),
    ("operator", "operator"),
];

const ROLES: &str = r#"
[[role]]
name = "orders"
keys = [
    { prefix = "orders:", allow = ["read", "write", "delete"] },
    { prefix = "shared:", allow = ["read"] },
]
allow = ["invalidate", "watch", "inspect"]
channels = ["orders:"]
tags = ["orders:"]

[[role]]
name = "users"
keys = [{ prefix = "users:", allow = ["read", "write", "delete"] }]
allow = ["invalidate", "watch", "inspect"]
channels = ["users:"]
tags = ["users:"]
"#;

fn user(name: &str, role: &str, tokens: &[&str]) -> String {
    let secrets: Vec<String> =
        tokens.iter().map(|token| format!("{:?}", SecretHash::of(token.as_bytes()).to_text())).collect();
    format!("[[user]]\nname = {name:?}\nroles = [{role:?}]\nsecrets = [{}]\n", secrets.join(", "))
}

fn all_users() -> String {
    let users: String = USERS.iter().map(|(name, role)| user(name, role, &[name])).collect();
    format!("{ROLES}{users}")
}

/// A server with users. Replacing the file changes them.
struct Guarded {
    node: Terrace,
    file: PathBuf,
    config: Config,
    _dir: tempfile::TempDir,
    _store: Option<RedisServer>,
}

impl Guarded {
    fn start(mut config: Config, store: Option<RedisServer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.toml");
        fs::write(&file, all_users()).unwrap();
        config.auth.file = Some(file.clone());
        config.resp.flush = Some(true);
        Self { node: Terrace::start(config.clone()), file, config, _dir: dir, _store: store }
    }

    fn over_none() -> Self {
        Self::start(config(), None)
    }

    fn over_redis() -> Self {
        let redis = RedisServer::start();
        Self::start(config_patient(redis.url()), Some(redis))
    }

    /// Replaces the users file at once, and sends a reload.
    fn replace(&self, users: &str) {
        let draft = self.file.with_extension("draft");
        fs::write(&draft, users).unwrap();
        fs::rename(&draft, &self.file).unwrap();
        self.node.reload(self.config.clone());
    }

    fn resp(&self, user: &str) -> Client {
        let mut client = Client::connect(&self.node);
        client.ask(&format!("AUTH {user} {user}"), "+OK\r\n");
        client
    }
}

/// A request with the token of a user; no token for an empty name.
fn by<M>(user: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    if !user.is_empty() {
        let value: MetadataValue<_> = format!("Bearer {user}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn key(name: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(name.as_bytes())
}

fn set(name: &str, value: &str) -> SetRequest {
    SetRequest { key: key(name), value: key(value), ..SetRequest::default() }
}

fn get(name: &str) -> GetRequest {
    GetRequest { key: key(name), options: None }
}

/// A request for a lease, which does not wait.
fn lease(name: &str) -> GetOrLeaseRequest {
    GetOrLeaseRequest { key: key(name), wait_ms: Some(0), ..GetOrLeaseRequest::default() }
}

/// A fill with a token that no node has issued: a permitted call stores nothing.
fn fill(name: &str) -> FillRequest {
    FillRequest { key: key(name), token: key("token"), loaded: Some(Loaded::Value(key("v"))), ..FillRequest::default() }
}

fn lease_many(name: &str) -> GetOrLeaseManyRequest {
    let items = vec![LeaseItem { key: key(name), ..LeaseItem::default() }];
    GetOrLeaseManyRequest { items, ..GetOrLeaseManyRequest::default() }
}

fn release(name: &str) -> ReleaseRequest {
    ReleaseRequest { key: key(name), token: key("token"), failed: None }
}

/// The first message of a stream, or its status.
async fn first<T>(call: Result<tonic::Response<tonic::Streaming<T>>, Status>) -> Result<(), Status> {
    match call?.into_inner().next().await {
        Some(Err(status)) => Err(status),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// Sends one operation over a Pipeline stream and returns the status of the stream or of the operation.
async fn pipelined(
    cache: &mut CacheClient<Channel>,
    user: &str,
    operation: operation::Operation,
) -> Result<(), Status> {
    let operation = Operation { id: 1, operation: Some(operation), context: 0 };
    let batches = futures_util::stream::iter([PipelineRequest { operations: vec![operation] }]);
    let mut results = cache.pipeline(by(user, batches)).await?.into_inner();
    match results.next().await {
        Some(Ok(mut results)) => match results.results.remove(0).result {
            Some(result) => {
                error_of(result).map_or(Ok(()), |error| Err(Status::new(Code::from(error.code), error.message)))
            }
            None => Ok(()),
        },
        Some(Err(status)) => Err(status),
        None => Ok(()),
    }
}

/// Returns the error of an operation or of its only key.
fn error_of(result: proto::operation_result::Result) -> Option<proto::Error> {
    use proto::operation_result::Result as Answered;
    match result {
        Answered::Error(error) => Some(error),
        Answered::GetMany(mut many) => match many.results.remove(0).result {
            Some(get_many_result::Result::Error(error)) => Some(error),
            _ => None,
        },
        Answered::SetMany(mut many) => match many.results.remove(0).result {
            Some(set_many_result::Result::Error(error)) => Some(error),
            _ => None,
        },
        Answered::GetOrLeaseMany(mut many) => match many.results.remove(0).result {
            Some(get_or_lease_many_result::Result::Error(error)) => Some(error),
            _ => None,
        },
        Answered::Get(_)
        | Answered::Set(_)
        | Answered::Delete(_)
        | Answered::Touch(_)
        | Answered::Increment(_)
        | Answered::GetMeta(_)
        | Answered::GetOrLease(_)
        | Answered::Fill(_)
        | Answered::Release(_) => None,
    }
}

/// Calls a method on a key with the prefix `orders:`, and returns the code of its status or of the item.
async fn call(channel: &Channel, method: &str, user: &str) -> Code {
    let (mut cache, mut insight) = (CacheClient::new(channel.clone()), InsightClient::new(channel.clone()));
    let (mut invalidation, mut admin) = (InvalidationClient::new(channel.clone()), AdminClient::new(channel.clone()));
    let name = "orders:1";
    let item = |error: Option<proto::Error>| match error {
        None => Ok(()),
        Some(error) => Err(Status::new(Code::from(error.code), error.message)),
    };
    let result: Result<(), Status> = match method {
        "Cache/Get" => cache.get(by(user, get(name))).await.map(drop),
        "Cache/GetMany" => {
            match cache.get_many(by(user, GetManyRequest { keys: vec![key(name)], options: None })).await {
                Ok(found) => match found.into_inner().results.remove(0).result {
                    Some(get_many_result::Result::Error(error)) => item(Some(error)),
                    _ => Ok(()),
                },
                Err(status) => Err(status),
            }
        }
        "Cache/Set" => cache.set(by(user, set(name, "v"))).await.map(drop),
        "Cache/SetMany" => match cache.set_many(by(user, SetManyRequest { entries: vec![set(name, "v")] })).await {
            Ok(stored) => match stored.into_inner().results.remove(0).result {
                Some(set_many_result::Result::Error(error)) => item(Some(error)),
                _ => Ok(()),
            },
            Err(status) => Err(status),
        },
        "Cache/Delete" => cache.delete(by(user, DeleteRequest { keys: vec![key("orders:gone")] })).await.map(drop),
        "Cache/Touch" => {
            let touch = TouchRequest { key: key(name), ttl_ms: Some(60_000), ..TouchRequest::default() };
            cache.touch(by(user, touch)).await.map(drop)
        }
        "Cache/Increment" => {
            let increment = IncrementRequest { key: key("orders:n"), delta: 1, ..IncrementRequest::default() };
            cache.increment(by(user, increment)).await.map(drop)
        }
        "Cache/GetOrLease" => cache.get_or_lease(by(user, lease(name))).await.map(drop),
        "Cache/GetOrLeaseMany" => match cache.get_or_lease_many(by(user, lease_many(name))).await {
            Ok(leased) => match leased.into_inner().results.remove(0).result {
                Some(get_or_lease_many_result::Result::Error(error)) => item(Some(error)),
                _ => Ok(()),
            },
            Err(status) => Err(status),
        },
        "Cache/Fill" => cache.fill(by(user, fill(name))).await.map(drop),
        "Cache/Release" => cache.release(by(user, release(name))).await.map(drop),
        "Cache/GetMeta" => match cache.get_meta(by(user, GetMetaRequest { keys: vec![key(name)] })).await {
            Ok(meta) => item(meta.into_inner().results.remove(0).error),
            Err(status) => Err(status),
        },
        "Cache/Pipeline" => pipelined(&mut cache, user, operation::Operation::Get(get(name))).await,
        "Invalidation/Watch" => {
            let watch = WatchRequest { prefixes: vec![key("orders:")], ..WatchRequest::default() };
            first(invalidation.watch(by(user, watch)).await).await
        }
        "Invalidation/InvalidatePattern" => {
            first(invalidation.invalidate_pattern(by(user, by_pattern("orders:x*"))).await).await
        }
        "Invalidation/InvalidateTags" => {
            let tags = InvalidateTagsRequest { tags: vec![key("orders:t")] };
            invalidation.invalidate_tags(by(user, tags)).await.map(drop)
        }
        "Insight/GetStats" => insight.get_stats(by(user, GetStatsRequest {})).await.map(drop),
        "Insight/WatchStats" => first(insight.watch_stats(by(user, WatchStatsRequest::default())).await).await,
        "Insight/TopKeys" => insight.top_keys(by(user, TopKeysRequest::default())).await.map(drop),
        "Insight/SimulateCapacity" => insight.simulate_capacity(by(user, SimulateCapacityRequest {})).await.map(drop),
        "Insight/GetTtlAdvice" => insight.get_ttl_advice(by(user, GetTtlAdviceRequest::default())).await.map(drop),
        "Insight/Explain" => insight.explain(by(user, ExplainRequest { key: key(name) })).await.map(drop),
        "Insight/GetAssociations" => {
            insight.get_associations(by(user, GetAssociationsRequest::default())).await.map(drop)
        }
        "Insight/Predict" => insight.predict(by(user, PredictRequest { key: key(name) })).await.map(drop),
        "Admin/ScanKeys" => first(admin.scan_keys(by(user, ScanKeysRequest::default())).await).await,
        "Admin/Warm" => {
            let warm = WarmRequest { keys: vec![key(name)], ..WarmRequest::default() };
            first(admin.warm(by(user, warm)).await).await
        }
        "Admin/RecordReads" => first(admin.record_reads(by(user, RecordReadsRequest::default())).await).await,
        "Admin/Flush" => {
            let flush = FlushRequest {
                keys: Some(proto::flush_request::Keys::All(proto::FlushAll {})),
                confirm: key("flush all"),
            };
            admin.flush(by(user, flush)).await.map(drop)
        }
        "Admin/GetConfig" => admin.get_config(by(user, GetConfigRequest {})).await.map(drop),
        other => panic!("{other} has no row in this test"),
    };
    result.map_or_else(|status| status.code(), |()| Code::Ok)
}

/// The users that may call each method on a key with the prefix `orders:`.
fn permitted(method: &str) -> &'static [&'static str] {
    match method.split_once('/').unwrap() {
        (_, "Get" | "GetMany" | "GetOrLease" | "GetOrLeaseMany" | "Pipeline") => &["root", "orders", "reader"],
        (_, "GetMeta" | "Explain" | "Predict") => &["root", "orders", "reader", "operator"],
        ("Cache", _) => &["root", "orders"],
        (_, "Watch") => &["root", "orders", "reader"],
        ("Invalidation", _) | (_, "Warm") => &["root", "orders"],
        (_, "ScanKeys") => &["root", "orders", "users", "reader", "operator"],
        ("Insight", _) | (_, "RecordReads") => &["root", "orders", "users", "operator"],
        ("Admin", "Flush" | "GetConfig") => &["root"],
        (service, method) => panic!("{service}/{method} has no row in this test"),
    }
}

/// All methods of the API, from its descriptors: a new method without a row fails.
fn methods() -> Vec<String> {
    use prost::Message;
    let files = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let services = files.file.into_iter().filter(|file| file.package() == "terrace.v1").flat_map(|file| file.service);
    let methods = services.flat_map(|service| {
        let name = service.name().to_owned();
        service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
    });
    methods.collect()
}

#[test]
fn each_method_is_permitted_to_its_roles_only() {
    let guarded = Guarded::over_redis();
    let methods = methods();
    assert!(methods.len() >= 25, "{methods:?}");
    block_on(async {
        let channel = connect(guarded.node.grpc()).await;
        for method in &methods {
            for user in ["", "wrong"].into_iter().chain(USERS.map(|(name, _)| name)) {
                let code = call(&channel, method, user).await;
                let expected = match user {
                    "" | "wrong" => Code::Unauthenticated,
                    _ if permitted(method).contains(&user) => Code::Ok,
                    _ => Code::PermissionDenied,
                };
                assert_eq!(code, expected, "{method} by {user:?}");
            }
        }
    });
}

#[test]
fn each_operation_of_a_pipeline_is_permitted_to_its_roles_only() {
    use operation::Operation as Requested;
    let guarded = Guarded::over_none();
    let name = "orders:1";
    let touch = TouchRequest { key: key(name), ttl_ms: Some(60_000), ..TouchRequest::default() };
    let increment = IncrementRequest { key: key("orders:n"), delta: 1, ..IncrementRequest::default() };
    let operations = [
        ("Get", Requested::Get(get(name))),
        ("Set", Requested::Set(set(name, "v"))),
        ("Delete", Requested::Delete(DeleteRequest { keys: vec![key("orders:gone")] })),
        ("Touch", Requested::Touch(touch)),
        ("Increment", Requested::Increment(increment)),
        ("GetMeta", Requested::GetMeta(GetMetaRequest { keys: vec![key("orders:x")] })),
        ("GetOrLease", Requested::GetOrLease(lease(name))),
        ("Fill", Requested::Fill(fill(name))),
        ("Release", Requested::Release(release(name))),
        ("GetMany", Requested::GetMany(GetManyRequest { keys: vec![key(name)], options: None })),
        ("SetMany", Requested::SetMany(SetManyRequest { entries: vec![set(name, "v")] })),
        ("GetOrLeaseMany", Requested::GetOrLeaseMany(lease_many(name))),
    ];
    block_on(async {
        let mut cache = CacheClient::new(connect(guarded.node.grpc()).await);
        for (method, operation) in &operations {
            for (user, _) in USERS {
                let result = pipelined(&mut cache, user, operation.clone()).await;
                let code = result.map_or_else(|status| status.code(), |()| Code::Ok);
                // GetMeta reports a denial for each key.
                let is_permitted = *method == "GetMeta" || permitted(&format!("Cache/{method}")).contains(&user);
                let expected = if is_permitted { Code::Ok } else { Code::PermissionDenied };
                assert_eq!(code, expected, "{method} by {user:?}");
            }
        }
    });
}

/// A client that may only read gets the values of others, and loads without a lease.
#[test]
fn a_lease_is_granted_only_to_a_client_that_may_write_key_and_tags() {
    let guarded = Guarded::over_none();
    block_on(async {
        let mut cache = CacheClient::new(connect(guarded.node.grpc()).await);
        for (user, name, tags, has_token) in [
            ("reader", "orders:a", &[][..], false),
            ("orders", "shared:a", &[], false),
            ("orders", "orders:a", &["users:t"], false),
            ("orders", "orders:a", &["orders:t"], true),
        ] {
            let request = GetOrLeaseRequest { tags: tags.iter().map(|tag| key(tag)).collect(), ..lease(name) };
            let answer = cache.get_or_lease(by(user, request)).await.unwrap().into_inner().result.unwrap();
            let get_or_lease_response::Result::Load(load) = answer else { panic!("{user} {name}: {answer:?}") };
            assert_eq!(!load.grant.unwrap().token.is_empty(), has_token, "{user} {name} {tags:?}");
        }
        let foreign = FillRequest { tags: vec![key("users:t")], ..fill("orders:a") };
        assert_eq!(cache.fill(by("orders", foreign)).await.unwrap_err().code(), Code::PermissionDenied);
    });
    let denied = "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
    let mut reader = guarded.resp("reader");
    for command in ["FILL orders:b t v", "ABSENT orders:b t PX 1000", "RELEASE orders:b t"] {
        reader.ask(&format!("TERRACE.{command}"), denied);
    }
    reader.ask("TERRACE.LEASE orders:b", "*4\r\n$4\r\nload\r\n$0\r\n\r\n:10000\r\n$4\r\nmiss\r\n");
    let mut orders = guarded.resp("orders");
    orders.ask("TERRACE.LEASE users:b", denied);
    orders.say("TERRACE.LEASE orders:b");
    let reply: Vec<String> = (0..4).map(|_| orders.line()).collect();
    assert_ne!(reply[3], "$0\r\n", "{reply:?}");
}

#[test]
fn a_denial_names_verb_and_prefix_and_is_counted() {
    let guarded = Guarded::over_none();
    let status = block_on(async {
        let mut cache = CacheClient::new(connect(guarded.node.grpc()).await);
        cache.set(by("orders", set("shared:secret-key", "v"))).await.unwrap_err()
    });
    assert_eq!(
        status.message(),
        "user \"orders\" does not have the permission write on this key; permitted prefixes: orders:"
    );
    let metrics = http(&guarded, "/metrics", "Bearer root");
    assert!(metrics.contains("terrace_denied_total{user=\"orders\",verb=\"write\"} 1"), "{metrics}");
    assert!(!metrics.contains("secret-key"));
}

fn http(guarded: &Guarded, path: &str, authorization: &str) -> String {
    let header = if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n");
    exchange(guarded.node.http(), request.as_bytes())
}

#[test]
fn http_requires_credentials_except_for_probes() {
    let guarded = Guarded::over_none();
    // user root, token root
    let basic = "Basic cm9vdDpyb290";
    for (path, authorization, status) in [
        ("/healthz", "", "200"),
        ("/readyz", "", "200"),
        ("/metrics", "", "401"),
        ("/metrics", "Bearer wrong", "401"),
        ("/metrics", "Bearer scraper", "200"),
        ("/metrics", "Bearer operator", "200"),
        ("/metrics", "Bearer orders", "403"),
        ("/metrics", basic, "200"),
        ("/", "", "401"),
        ("/", "Bearer operator", "200"),
        ("/", basic, "200"),
        ("/api/top", "", "401"),
        ("/", "Bearer orders", "200"),
        ("/api/top", "Bearer orders", "200"),
        ("/api/top", "Bearer reader", "403"),
        ("/api/top", "Bearer scraper", "403"),
        ("/", "Digest x", "401"),
    ] {
        let answer = http(&guarded, path, authorization);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path} with {authorization}: {answer}");
        assert_eq!(status == "401", answer.to_lowercase().contains("www-authenticate: basic realm"), "{answer}");
    }
}

/// The values that a path of the page's API returns to a user.
fn api(guarded: &Guarded, path: &str, user: &str) -> Value {
    let answer = http(guarded, path, &format!("Bearer {user}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{path} by {user}: {head}");
    serde_json::from_str(body).unwrap()
}

/// Reads keys of both tenants as root, in an order from which associations within and between the tenants are learned.
fn read_of_both(root: &mut Client, ids: std::ops::Range<u32>) {
    for id in ids {
        for key in ["orders:cart", "users:name", "orders:total"] {
            root.ask(&format!("GET {key}:{id}"), "$1\r\nv\r\n");
        }
    }
}

#[test]
fn the_page_of_a_tenant_is_about_its_own_keys() {
    let redis = RedisServer::start();
    let mut all = redis::pipe();
    for (key, id) in
        ["orders:cart", "users:name", "orders:total"].iter().flat_map(|key| (0..400).map(move |id| (key, id)))
    {
        all.set(format!("{key}:{id}"), "v").ignore();
    }
    all.exec(&mut redis.connect()).unwrap();
    let mut config = config_patient(redis.url());
    config.server.workers = 1;
    let guarded = Guarded::start(config, Some(redis));
    eventually("L1 may answer", || api(&guarded, "/api/stats", "root")["coherence"]["open"] == true);
    let mut root = guarded.resp("root");
    read_of_both(&mut root, 0..300);
    let root_learned = api(&guarded, "/api/learned", "root").to_string();
    assert!(root_learned.contains("users:name:") && root_learned.contains("orders:cart:"), "{root_learned}");
    assert!(!api(&guarded, "/api/history", "root")["points"].as_array().unwrap().is_empty());
    for (own, foreign) in [("orders", "users:"), ("users", "orders:")] {
        for path in ["/api/stats", "/api/top", "/api/learned", "/api/history"] {
            let shown = api(&guarded, path, own).to_string();
            assert!(!shown.contains(foreign), "{path} by {own}: {shown}");
        }
        let top = api(&guarded, "/api/top", own);
        let keys = top["keys"].as_array().unwrap();
        assert!(keys.len() == 12 && keys.iter().all(|key| key["key"].as_str().unwrap().starts_with(own)), "{top}");
        assert!(api(&guarded, "/api/history", own)["points"].as_array().unwrap().is_empty());
    }
    let learned = api(&guarded, "/api/learned", "orders");
    let rule = |rule: &Value| rule["from"] == "orders:cart:{d}" && rule["to"] == "orders:total:{1}";
    assert!(learned["rules"].as_array().unwrap().iter().any(rule), "{learned}");
    assert!(learned["prefetch"]["total"]["issued"].as_u64() > Some(0), "{learned}");
    let stats = api(&guarded, "/api/stats", "orders");
    let (sum, groups) = (
        |of: &str| stats["groups"].as_array().unwrap().iter().map(|group| group[of].as_u64().unwrap()).sum::<u64>(),
        &stats["groups"],
    );
    assert_eq!(groups.as_array().unwrap().len(), 2, "{groups}");
    assert_eq!(
        (sum("entries"), sum("bytes")),
        (stats["l1"]["entries"].as_u64().unwrap(), stats["l1"]["bytes"].as_u64().unwrap())
    );
}

/// What a tenant sees of the node on each port, without times.
fn totals(guarded: &Guarded, user: &str) -> String {
    let mut stats = api(guarded, "/api/stats", user);
    for key in ["node", "health"] {
        stats.as_object_mut().unwrap().remove(key);
    }
    stats["point"][0] = Value::Null;
    stats["coherence"]["fence_age_ms"] = Value::Null;
    // Other windows end while the test runs.
    let mut start = stats["windows"].as_array_mut().unwrap().pop().unwrap();
    start["over_ms"] = Value::Null;
    stats["windows"] = start;
    let of_grpc = block_on(async {
        let mut insight = InsightClient::new(connect(guarded.node.grpc()).await);
        let mut stats = insight.get_stats(by(user, GetStatsRequest {})).await.unwrap().into_inner();
        stats.uptime_ms = 0;
        stats.connections = None;
        stats.windows.clear();
        stats.coherence.as_mut().unwrap().fence_age_ms = None;
        stats.learning.as_mut().unwrap().floor = 0.0;
        stats
    });
    let mut resp = guarded.resp(user);
    resp.send(&request("INFO keyspace tier_l1 tier_l2 groups learning"));
    resp.send(&request("TERRACE.TIERS"));
    resp.send(&request("QUIT"));
    let of_resp: Vec<String> = resp
        .drain()
        .lines()
        .filter(|line| !line.contains("_ms") && !line.contains("_floor"))
        .map(str::to_owned)
        .collect();
    format!("{stats}\n{of_grpc:?}\n{}", of_resp.join("\n"))
}

#[test]
fn totals_do_not_tell_about_foreign_keys() {
    let guarded = Guarded::over_redis();
    eventually("L1 may answer", || api(&guarded, "/api/stats", "root")["coherence"]["open"] == true);
    let mut users = guarded.resp("users");
    let touch = |users: &mut Client| {
        for id in 0..40 {
            users.ask(&format!("SET users:a:{id} v"), "+OK\r\n");
            users.ask(&format!("GET users:a:{id}"), "$1\r\nv\r\n");
            users.ask(&format!("GET users:missing:{id}"), "$-1\r\n");
        }
    };
    touch(&mut users);
    let (before, of_users, of_root) = (totals(&guarded, "orders"), totals(&guarded, "users"), totals(&guarded, "root"));
    touch(&mut users);
    users.say("TERRACE.INVALIDATE PATTERN users:missing:*");
    assert!(!users.line().starts_with('-'));
    assert_eq!(totals(&guarded, "orders"), before);
    assert_ne!(totals(&guarded, "users"), of_users);
    assert_ne!(totals(&guarded, "root"), of_root);
}

#[test]
fn resp_answers_as_redis_does() {
    let guarded = Guarded::over_none();
    let mut nobody = Client::connect(&guarded.node);
    nobody.ask("GET orders:1", "-NOAUTH Authentication required.\r\n");
    nobody.ask("AUTH orders wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    nobody.ask("AUTH users orders", "-WRONGPASS invalid username-password pair or user is disabled.\r\n");
    nobody.ask("AUTH orders", "+OK\r\n");
    nobody.ask("ACL WHOAMI", "$6\r\norders\r\n");
    let mut root = guarded.resp("root");
    root.ask("MSET orders:1 a users:1 b shared:1 c", "+OK\r\n");
    root.ask(
        "ACL USERS",
        "*6\r\n$8\r\noperator\r\n$6\r\norders\r\n$6\r\nreader\r\n$4\r\nroot\r\n$7\r\nscraper\r\n$5\r\nusers\r\n",
    );
    let mut orders = guarded.resp("orders");
    let key = "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
    let channel = "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n";
    for (command, reply) in [
        ("GET orders:1", "$1\r\na\r\n"),
        ("GET shared:1", "$1\r\nc\r\n"),
        ("GET users:1", key),
        ("GET missing", key),
        ("SET shared:1 x", key),
        ("MGET orders:1 users:1", key),
        ("KEYS *", "*2\r\n$8\r\norders:1\r\n$8\r\nshared:1\r\n"),
        ("DBSIZE", ":0\r\n"),
        ("FLUSHALL", "-NOPERM this user has no permissions to run the 'flushall' command\r\n"),
        ("CONFIG GET port", "-NOPERM this user has no permissions to run the 'config|get' command\r\n"),
        ("SUBSCRIBE users:x", channel),
        ("PUBLISH users:x m", channel),
        ("PUBLISH orders:x m", ":0\r\n"),
        ("MULTI", "+OK\r\n"),
        ("GET users:1", key),
        ("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ("SELECT 1", "+OK\r\n"),
        ("GET users:1", key),
        ("SELECT 0", "+OK\r\n"),
        ("RESET", "+RESET\r\n"),
        ("GET orders:1", "-NOAUTH Authentication required.\r\n"),
    ] {
        orders.say(command);
        if command == "KEYS *" {
            let mut lines: Vec<String> = (0..5).map(|_| orders.line()).collect();
            lines.sort();
            assert_eq!(lines, ["$8\r\n", "$8\r\n", "*2\r\n", "orders:1\r\n", "shared:1\r\n"]);
            continue;
        }
        let mut got = orders.line();
        if got.starts_with('$') {
            got += &orders.line();
        }
        assert_eq!(got, reply, "{command}");
    }
    let scanned: std::collections::HashSet<String> = (0..20)
        .map(|_| {
            let mut orders = guarded.resp("orders");
            orders.say("RANDOMKEY");
            orders.line();
            orders.line().trim().to_owned()
        })
        .collect();
    assert!(scanned.iter().all(|key| !key.starts_with("users:")), "{scanned:?}");
}

/// Redis's own replies to a user with the same permissions.
#[test]
fn the_texts_are_those_of_redis() {
    let redis = RedisServer::start();
    let mut stream = Client(std::net::TcpStream::connect(("127.0.0.1", redis.port())).unwrap());
    stream.ask(
        "ACL SETUSER orders on >orders ~orders:* %R~shared:* &orders:* +@all -@admin -@dangerous -@scripting",
        "+OK\r\n",
    );
    stream.ask("AUTH orders orders", "+OK\r\n");
    let guarded = Guarded::over_none();
    let mut ours = guarded.resp("orders");
    for command in [
        "GET users:1",
        "SET shared:1 x",
        "GETDEL shared:1",
        "SET shared:1 x GET",
        "RENAME orders:1 users:1",
        "FLUSHALL",
        "CONFIG GET x",
        "SUBSCRIBE users:x",
        "PSUBSCRIBE *",
        "PUBLISH users:x m",
        "ACL WHOAMI",
        "MSET orders:1 a b c",
    ] {
        stream.say(command);
        ours.say(command);
        assert_eq!(ours.line(), stream.line(), "{command}");
        if command == "ACL WHOAMI" {
            assert_eq!(ours.line(), stream.line());
        }
    }
}

/// Requests without permission and failed logins, for Redis and Terrace alike.
const REFUSED: [&str; 13] = [
    "GET users:1",
    "GET users:1",
    "SET shared:1 x",
    "FLUSHALL",
    "CONFIG GET x",
    "SUBSCRIBE users:x",
    "PSUBSCRIBE orders:* users:*",
    "PUBLISH users:y m",
    "MSET orders:1 a users:2 b",
    "MULTI",
    "GET users:3",
    "DISCARD",
    "auth orders wrong",
];

/// The entries of ACL LOG, without the parts that differ: times, addresses, ids. The fields are those that Redis has.
fn acl_log(connection: &mut redis::Connection) -> Vec<String> {
    let entries: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").arg(1_000).query(connection).unwrap();
    let entry = |entry: &redis::Value| {
        let fields: Vec<(String, redis::Value)> = redis::from_redis_value_ref(entry).unwrap();
        let shown = fields.iter().map(|(name, value)| {
            let text: String = redis::from_redis_value_ref(value).unwrap();
            match name.as_str() {
                "age-seconds" => assert!(text.parse::<f64>().unwrap() >= 0.0, "{text}"),
                "client-info" => {
                    let words = text.split(' ').filter(|word| {
                        word.starts_with("cmd=") || word.starts_with("user=") || word.starts_with("db=")
                    });
                    return words.collect::<Vec<_>>().join(" ");
                }
                _ => return format!("{name}={text}"),
            }
            name.clone()
        });
        shown.collect::<Vec<_>>().join(" ")
    };
    entries.iter().map(entry).collect()
}

/// A Redis with a user that has the permissions of `orders`, and a client that is logged in as this user.
fn redis_with_orders() -> (RedisServer, Client) {
    let redis = RedisServer::start();
    let mut client = Client::connect_to(("127.0.0.1", redis.port()));
    client.ask(
        "ACL SETUSER orders on >orders ~orders:* %R~shared:* &orders:* +@all -@admin -@dangerous -@scripting",
        "+OK\r\n",
    );
    client.ask("AUTH orders orders", "+OK\r\n");
    (redis, client)
}

#[test]
fn acl_log_has_the_entries_of_redis() {
    let (redis, mut theirs) = redis_with_orders();
    let guarded = Guarded::over_none();
    let mut ours = guarded.resp("orders");
    for command in REFUSED {
        theirs.say(command);
        ours.say(command);
        assert_eq!(ours.line(), theirs.line(), "{command}");
    }
    let mut of_redis = redis.connect();
    let url = format!("redis://root:root@{}", guarded.node.resp());
    let mut of_terrace = redis::Client::open(url).unwrap().get_connection().unwrap();
    let log = acl_log(&mut of_redis);
    assert!(log.len() == 10 && log.iter().any(|entry| entry.starts_with("count=2 reason=key")), "{log:?}");
    assert_eq!(acl_log(&mut of_terrace), log);
    let (mut theirs, mut ours) = (Client::connect_to(("127.0.0.1", redis.port())), guarded.resp("root"));
    for command in
        ["ACL LOG x", "ACL LOG 1 2", "ACL LOG -5", "ACL LOG reset", "ACL LOG", "ACL CAT a b", "ACL GENPASS x y"]
    {
        theirs.say(command);
        ours.say(command);
        assert_eq!(ours.line(), theirs.line(), "{command}");
    }
    // An unknown user may be a secret in the wrong place.
    let mut typo = Client::connect(&guarded.node);
    typo.say("AUTH hunter2 orders");
    assert!(typo.line().starts_with("-WRONGPASS"));
    assert_eq!(
        acl_log(&mut of_terrace),
        ["count=1 reason=auth context=toplevel object=AUTH username=unknown age-seconds db=0 cmd=auth user=default"]
    );
}

#[test]
fn acl_log_is_bounded() {
    let guarded = Guarded::over_none();
    let mut orders = guarded.resp("orders");
    let long = "k".repeat(60_000);
    for number in 0..300 {
        orders.ask(
            &format!("GET {long}{number}"),
            "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n",
        );
    }
    let url = format!("redis://root:root@{}", guarded.node.resp());
    let mut root = redis::Client::open(url).unwrap().get_connection().unwrap();
    let entries: Vec<redis::Value> = redis::cmd("ACL").arg("LOG").arg(1_000).query(&mut root).unwrap();
    // Only the last characters of the keys differ, which are not shown. The entries differ by their lengths.
    assert!(!entries.is_empty() && format!("{entries:?}").len() < 200_000);
    for number in 0..300 {
        orders.say(&format!("GET users:{number}"));
        orders.line();
    }
    assert_eq!(acl_log(&mut root).len(), 128);
    assert!(acl_log(&mut root)[0].contains("object=users:299 "));
    let page = http(&guarded, "/metrics", "Bearer root");
    assert!(page.contains("terrace_in_flight_bytes 0\n"), "no client is charged");
}

#[test]
fn acl_dryrun_has_the_texts_of_redis() {
    let (redis, _orders) = redis_with_orders();
    let guarded = Guarded::over_none();
    let (mut theirs, mut ours) = (Client::connect_to(("127.0.0.1", redis.port())), guarded.resp("root"));
    let before = http(&guarded, "/metrics", "Bearer root").matches("terrace_denied_total{").count();
    for command in [
        "orders GET orders:1",
        "orders GET users:1",
        "orders SET shared:1 v",
        "orders MSET orders:1 a users:2 b",
        "orders RENAME orders:1 users:2",
        "orders XREAD STREAMS orders:1 users:1 0 0",
        "orders FLUSHALL",
        "orders CONFIG GET x",
        "orders SUBSCRIBE orders:x users:x",
        "orders PSUBSCRIBE users:*",
        "orders PUBLISH users:y m",
        "orders nosuch x",
        "orders GET",
        "nobody GET x",
    ] {
        for client in [&mut theirs, &mut ours] {
            client.send(&request(&format!("ACL DRYRUN {command}")));
            client.send(&request("ECHO end"));
        }
        let reply = |client: &mut Client| {
            let mut lines = String::new();
            while !lines.ends_with("$3\r\nend\r\n") {
                lines += &client.line();
            }
            lines
        };
        assert_eq!(reply(&mut ours), reply(&mut theirs), "{command}");
    }
    let after = http(&guarded, "/metrics", "Bearer root").matches("terrace_denied_total{").count();
    assert_eq!(before, after, "nothing was rejected");
}

#[test]
fn a_removed_user_loses_its_connections_and_streams() {
    let guarded = Guarded::over_none();
    let mut idle = guarded.resp("orders");
    let mut other = guarded.resp("users");
    block_on(async {
        let channel = connect(guarded.node.grpc()).await;
        let mut invalidation = InvalidationClient::new(channel.clone());
        let watch = |user| by(user, WatchRequest::default());
        let mut revoked = invalidation.watch(watch("orders")).await.unwrap().into_inner();
        let mut kept = invalidation.watch(watch("users")).await.unwrap().into_inner();
        revoked.next().await.unwrap().unwrap();
        kept.next().await.unwrap().unwrap();
        let without: String =
            USERS.iter().filter(|(name, _)| *name != "orders").map(|(name, role)| user(name, role, &[name])).collect();
        // The server notices the change by itself.
        fs::write(&guarded.file, format!("{ROLES}{without}")).unwrap();
        loop {
            match revoked.next().await.expect("a status ends the stream") {
                Ok(_) => {}
                Err(status) => break assert_eq!(status.code(), Code::Unauthenticated),
            }
        }
        let mut cache = CacheClient::new(channel);
        assert_eq!(cache.get(by("orders", get("orders:1"))).await.unwrap_err().code(), Code::Unauthenticated);
        // The stream of another user goes on.
        cache.set(by("users", set("users:1", "v"))).await.unwrap();
        loop {
            let message = kept.next().await.unwrap().unwrap();
            if format!("{message:?}").contains("users:1") {
                break;
            }
        }
    });
    idle.expect_end();
    other.ask("GET users:1", "$1\r\nv\r\n");
}

#[test]
fn a_rotation_of_a_secret_has_no_gap() {
    let guarded = Guarded::over_none();
    let file = |tokens: &[&str]| format!("{ROLES}{}", user("orders", "orders", tokens));
    let works = |token: &str| {
        block_on(async {
            let mut cache = CacheClient::new(connect(guarded.node.grpc()).await);
            cache.get(by(token, get("orders:1"))).await.is_ok()
        })
    };
    guarded.replace(&file(&["old"]));
    eventually("the old secret", || works("old"));
    guarded.replace(&file(&["old", "new"]));
    eventually("the new secret", || works("new"));
    assert!(works("old"));
    let mut old = Client::connect(&guarded.node);
    old.ask("AUTH orders old", "+OK\r\n");
    guarded.replace(&file(&["new"]));
    eventually("the end of the old secret", || !works("old"));
    assert!(works("new"));
    old.expect_end();
}

#[test]
fn a_faulty_users_file_changes_nothing() {
    let guarded = Guarded::over_none();
    let mut root = guarded.resp("root");
    for faulty in ["[[user]", "[[role]]\nname = \"x\"\nallow = [\"fly\"]", &user("a", "nobody", &["a"])] {
        guarded.replace(faulty);
        root.ask("PING", "+PONG\r\n");
        guarded.resp("orders").ask("GET orders:1", "$-1\r\n");
    }
    eventually("the faulty files are counted", || {
        let page = http(&guarded, "/metrics", "Bearer root");
        let counted = page.lines().find_map(|line| line.strip_prefix("terrace_auth_files_rejected_total "));
        counted.is_some_and(|counted| counted.parse::<u64>().unwrap() >= 3)
    });
}

/// A script truncates the file before it writes the new contents. An empty file, and a part of one, are valid.
#[test]
fn a_file_that_is_being_written_changes_nothing() {
    let guarded = Guarded::over_none();
    let mut root = guarded.resp("root");
    for _ in 0..300 {
        fs::write(&guarded.file, "").unwrap();
        fs::write(&guarded.file, all_users()).unwrap();
        root.ask("PING", "+PONG\r\n");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    guarded.resp("orders");
}

/// SIGHUP waits for the end of a write, and gives up if there is none.
#[test]
fn sighup_does_not_read_a_part_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.toml");
    fs::write(&file, all_users()).unwrap();
    let node = Process::start(&dir.path().join("data"), &["--auth-file", file.to_str().unwrap(), "--l2", "none"]);
    let mut orders = Client::connect_to(&node.resp[..]);
    orders.ask("AUTH orders orders", "+OK\r\n");
    let mut root = Client::connect_to(&node.resp[..]);
    root.ask("AUTH root root", "+OK\r\n");
    let without_orders: String =
        USERS.iter().filter(|(name, _)| *name != "orders").map(|(name, role)| user(name, role, &[name])).collect();
    for (number, part) in ["[[role]\n".to_owned(), format!("{ROLES}{without_orders}")].iter().enumerate() {
        for more in 0..20 {
            fs::write(&file, format!("{part}# {more}")).unwrap();
            if more == 0 {
                node.signal(Signal::HUP);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        orders.ask("PING", "+PONG\r\n");
        fs::write(&file, all_users()).unwrap();
        eventually("the file is read", || node.log().matches("configuration reloaded").count() == number + 1);
        orders.ask("PING", "+PONG\r\n");
    }
    // CONFIG SET of another setting does not read the file.
    fs::write(&file, "[[role]").unwrap();
    root.ask("CONFIG SET l2.read_timeout 75ms", "+OK\r\n");
    node.signal(Signal::HUP);
    let mut number = 0;
    eventually("the reload is rejected", || {
        number += 1;
        fs::write(&file, format!("[[role]\n# {number}")).unwrap();
        node.log().contains("users.toml is still being written after 5 s")
    });
    orders.ask("PING", "+PONG\r\n");
}

/// What a client has begun with other permissions does not survive a login as another user, or a narrowed role.
#[test]
fn begun_work_ends_with_the_permissions_it_was_begun_with() {
    let guarded = Guarded::over_none();
    for (begun, reply_lines) in [("MONITOR", 1), ("PSUBSCRIBE *", 6)] {
        let mut client = guarded.resp("root");
        client.send(&request("HELLO 3"));
        while client.line() != "*0\r\n" {}
        client.say(begun);
        (0..reply_lines).for_each(|_| drop(client.line()));
        client.say("AUTH orders orders");
        let rest = client.drain();
        assert!(rest.contains("+OK\r\n") || rest.contains("AUTH"), "{rest}");
    }
    let mut queued = guarded.resp("root");
    queued.ask("MULTI", "+OK\r\n");
    queued.ask("CLIENT LIST", "+QUEUED\r\n");
    let mut learned = guarded.resp("root");
    learned.ask("SELECT 2", "+OK\r\n");
    let narrowed = all_users().replace("roles = [\"admin\"]", "roles = [\"orders\"]");
    guarded.replace(&narrowed);
    eventually("root has become a tenant", || {
        let mut root = guarded.resp("root");
        root.say("CONFIG GET port");
        root.line().starts_with("-NOPERM")
    });
    queued.ask("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
    learned.say("CLIENT INFO");
    learned.line();
    assert!(learned.line().contains(" db=0 "));
}

#[test]
fn a_delete_without_the_permission_for_one_key_deletes_none() {
    let guarded = Guarded::over_none();
    block_on(async {
        let mut cache = CacheClient::new(connect(guarded.node.grpc()).await);
        cache.set(by("orders", set("orders:1", "v"))).await.unwrap();
        let delete = DeleteRequest { keys: vec![key("orders:1"), key("users:1")] };
        assert_eq!(cache.delete(by("orders", delete)).await.unwrap_err().code(), Code::PermissionDenied);
        let found = cache.get(by("orders", get("orders:1"))).await.unwrap().into_inner();
        assert!(crate::support::kv::found(found).is_some());
    });
}

#[test]
fn a_password_that_a_reload_sets_applies_to_open_connections() {
    let mut config = config();
    let node = Terrace::start(config.clone());
    let mut client = Client::connect(&node);
    client.ask("PING", "+PONG\r\n");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("password"), "secret").unwrap();
    config.resp.password_file = Some(dir.path().join("password"));
    node.reload(config);
    client.expect_end();
    let mut client = Client::connect(&node);
    client.ask("PING", "-NOAUTH Authentication required.\r\n");
    client.ask("AUTH secret", "+OK\r\n");
}

#[test]
fn an_expired_user_is_refused() {
    let guarded = Guarded::over_none();
    let expiring = |at: &str| format!("{ROLES}{}expires = \"{at}\"\n", user("orders", "orders", &["orders"]));
    guarded.replace(&expiring("2001-01-01T00:00:00Z"));
    eventually("the user is refused", || {
        let mut client = Client::connect(&guarded.node);
        client.say("AUTH orders orders");
        client.line().starts_with("-WRONGPASS")
    });
    guarded.replace(&expiring("2101-01-01T00:00:00Z"));
    eventually("the user is accepted", || {
        let mut client = Client::connect(&guarded.node);
        client.say("AUTH orders orders");
        client.line() == "+OK\r\n"
    });
}

#[test]
fn a_faulty_configuration_of_access_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        Server::bind(config, Vec::new(), terrace::clock::Clock::real()).err().map(|error| error.to_string())
    };
    let missing = dir.path().join("missing.toml");
    let error = start(&|config| config.auth.file = Some(missing.clone())).unwrap();
    assert!(error.contains("missing.toml: cannot read the file"), "{error}");
    let error = start(&|config| config.auth.anonymous = terrace::access::GuestRole::Role("boss".into())).unwrap();
    assert!(error.contains("auth.anonymous: unknown role \"boss\"; expected none, admin, operator"), "{error}");
    assert!(start(&|_| ()).is_none());
}

/// Scripts reach keys that they do not declare, so they need a permission of their own.
#[test]
fn scripts_need_the_verb_script_and_permissions_for_declared_keys() {
    let redis = RedisServer::start();
    let guarded = Guarded::start(config_patient(redis.url()), Some(redis));
    let role = "[[role]]\nname = \"scripts\"\nkeys = [{ prefix = \"s:\", allow = [\"read\", \"write\"] }]\nallow = [\"script\"]\n";
    fs::write(&guarded.file, format!("{}{role}{}", all_users(), user("scripter", "scripts", &["scripter"]))).unwrap();
    let mut client = Client::connect(&guarded.node);
    eventually("the new user is known", || {
        client.say("AUTH scripter scripter");
        client.line() == "+OK\r\n"
    });
    client.ask("EVAL return\\_redis.call('set',KEYS[1],'v') 1 s:k", "+OK\r\n");
    client.ask("EVAL return\\_1 0", ":1\r\n");
    client.ask("EVAL return\\_1 x", "-ERR value is not an integer or out of range\r\n");
    client.ask(
        "EVAL return\\_1 1 x:k",
        "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n",
    );
    client.ask("SCRIPT EXISTS x", "*1\r\n:0\r\n");
    client.ask("AUTH orders orders", "+OK\r\n");
    for (command, name) in [
        ("EVAL return\\_1 0", "eval"),
        ("EVAL_RO return\\_1 1 orders:1", "eval_ro"),
        ("EVALSHA x 0", "evalsha"),
        ("FCALL f 0", "fcall"),
        ("SCRIPT LOAD return\\_1", "script|load"),
        ("FUNCTION LIST", "function|list"),
        ("MULTI", ""),
        ("EVAL return\\_1 0", "eval"),
    ] {
        client.say(command);
        let expected = match name {
            "" => "+OK\r\n".to_owned(),
            name => format!("-NOPERM this user has no permissions to run the '{name}' command\r\n"),
        };
        assert_eq!(client.line(), expected, "{command}");
    }
    client.ask("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n");
}
