//! The attribute `#[cached]` of the Rust client, against a real server. Its error messages are tested in
//! `clients/rust/macros/tests/errors.rs`.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    error::Error as StdError,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use terrace_client::{Client, ErrorKind, Text, cached};

use crate::support::{
    grpc::block_on,
    terrace::{Terrace, config},
};

/// Deadline of operations that must succeed.
const LONG: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Profile {
    name: String,
    version: usize,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AppError {
    #[error("the database is down")]
    Database,
    #[error("no result: {0}")]
    Cache(#[from] terrace_client::Error),
}

/// A database that counts its queries. Clones share the rows.
#[derive(Debug, Clone, Default)]
struct Db {
    names: Arc<Mutex<HashMap<u64, String>>>,
    queries: Arc<AtomicUsize>,
}

impl Db {
    fn new(names: impl IntoIterator<Item = (u64, &'static str)>) -> Self {
        let names = names.into_iter().map(|(id, name)| (id, name.to_owned())).collect();
        Self { names: Arc::new(Mutex::new(names)), queries: Arc::default() }
    }

    fn query(&self, id: u64) -> Option<Profile> {
        let version = self.queries.fetch_add(1, SeqCst) + 1;
        self.names.lock().get(&id).map(|name| Profile { name: name.clone(), version })
    }

    fn queries(&self) -> usize {
        self.queries.load(SeqCst)
    }
}

/// Runs a test with a client of a fresh server.
fn with_client(test: impl AsyncFnOnce(Client)) {
    let server = Terrace::start(config());
    block_on(async {
        let client = Client::builder(server.grpc()).read_timeout(LONG).write_timeout(LONG).connect().await.unwrap();
        test(client).await;
    });
}

/// Reads the profile of a user.
#[cached(
    key = "user:{id}:profile",
    ttl = "5m",
    stale = "1h",
    negative_ttl = "30s",
    tags = ["user:{id}", "team:{team}"]
)]
async fn profile(client: &Client, db: &Db, id: u64, team: &str) -> Result<Option<Profile>, AppError> {
    if id == 0 {
        return Err(AppError::Database);
    }
    Ok(db.query(id))
}

#[test]
fn the_body_runs_only_if_no_result_is_cached() {
    let db = Db::new([(1, "Ada")]);
    with_client(async |client| {
        let ada = Profile { name: "Ada".into(), version: 1 };
        for _ in 0..3 {
            assert_eq!(profile(&client, &db, 1, "red").await.unwrap(), Some(ada.clone()));
        }
        // The origin does not have the key: that is an answer, too.
        for _ in 0..3 {
            assert_eq!(profile(&client, &db, 2, "red").await.unwrap(), None);
        }
        assert_eq!(db.queries(), 2);
        // Other programs read the value as JSON.
        let value = client.get("user:1:profile").await.unwrap().unwrap();
        assert_eq!(value, r#"{"name":"Ada","version":1}"#);
        let entry = client.lookup(profile::key(1)).await.unwrap().unwrap();
        let tags: BTreeSet<Bytes> = entry.tags.into_iter().collect();
        assert_eq!(tags, BTreeSet::from(["team:red".into(), "user:1".into()]));
        let remaining = entry.expires_in.unwrap();
        assert!(remaining > Duration::from_secs(3_600) && remaining <= Duration::from_secs(3_900), "{remaining:?}");
    });
}

#[test]
fn helper_functions_invalidate_refresh_and_bypass_the_cache() {
    let db = Db::new([(1, "Ada")]);
    let version = async |client: &Client| profile(client, &db, 1, "red").await.unwrap().unwrap().version;
    with_client(async |client| {
        assert_eq!(profile::key(1), "user:1:profile");
        assert!(!profile::invalidate(&client, 1).await.unwrap());
        assert_eq!(version(&client).await, 1);
        assert!(profile::invalidate(&client, 1).await.unwrap());
        assert_eq!(version(&client).await, 2);
        client.invalidate_tags(["team:red"]).await.unwrap();
        assert_eq!(version(&client).await, 3);
        assert_eq!(profile::refresh(&client, &db, 1, "red").await.unwrap().unwrap().version, 4);
        assert_eq!(version(&client).await, 4, "the refresh was stored");
        assert_eq!(profile::uncached(&client, &db, 1, "red").await.unwrap().unwrap().version, 5);
        assert_eq!(version(&client).await, 4, "the direct call was not stored");
    });
}

#[test]
fn concurrent_calls_share_one_run_of_the_body() {
    let db = Db::new([(1, "Ada")]);
    with_client(async |client| {
        let calls = (0..50).map(|_| {
            let (client, db) = (client.clone(), db.clone());
            tokio::spawn(async move { profile(&client, &db, 1, "red").await.unwrap().unwrap().name })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), "Ada");
        }
        assert_eq!(db.queries(), 1);
    });
}

#[test]
fn an_error_of_the_body_is_the_source_of_the_error() {
    with_client(async |client| {
        let error = profile(&client, &Db::default(), 0, "red").await.unwrap_err();
        let AppError::Cache(error) = error else { panic!("expected an error of the cache, got {error}") };
        assert_eq!(error.kind(), ErrorKind::LoadFailed);
        let source = error.source().and_then(|source| source.downcast_ref::<AppError>());
        assert!(matches!(source, Some(AppError::Database)), "{error}: {source:?}");
        let direct = profile::uncached(&client, &Db::default(), 0, "red").await.unwrap_err();
        assert!(matches!(direct, AppError::Database), "{direct}");
    });
}

/// A service that contains the client.
#[derive(Debug, Clone)]
struct Service {
    cache: Arc<Client>,
    runs: Arc<AtomicUsize>,
}

/// A time to live that is an expression.
const TTL: Duration = Duration::from_secs(60);

#[cached(
    key = "text:{language}:{name}", client = service.cache, codec = Text, ttl = TTL, skip(_width),
    wait = "1s", soft_timeout = "100ms", load_timeout = "10s", lease = "5s", on_unavailable = "stale", share_errors
)]
async fn text(
    service: &Service,
    language: Cow<'static, str>,
    mut name: String,
    _width: usize,
) -> terrace_client::Result<String> {
    service.runs.fetch_add(1, SeqCst);
    name.push('!');
    Ok(format!("{language}: {name}"))
}

#[cached(key = "generic:{first}:{client}", client = cache, ttl = "1m")]
async fn generic<const N: usize, K, D>(cache: &Client, origin: &D, first: K, client: u8) -> Result<Vec<u8>, AppError>
where
    K: Display + Clone + Send + Sync + 'static,
    D: Fn(usize) -> u8 + Clone + Send + Sync + 'static,
{
    Ok((0..N).map(origin).collect())
}

#[cached(key = "raw", ttl = "1m")]
pub(crate) async fn raw(client: &Client, r#type: &Bytes) -> Result<Option<Bytes>, AppError> {
    Ok(Some(r#type.clone()))
}

/// A value that has no `Clone`.
#[derive(Debug, Serialize, Deserialize)]
struct Large(Vec<u32>);

#[cached(key = "large", ttl = "1m")]
async fn large(client: &Client) -> Result<Option<Arc<Large>>, AppError> {
    Ok(Some(Arc::new(Large(vec![1, 2]))))
}

#[test]
fn options_generics_and_shared_values() {
    with_client(async |client| {
        let service = Service { cache: Arc::new(client.clone()), runs: Arc::default() };
        for width in 0..3 {
            let text = text(&service, "en".into(), "Ada".to_owned(), width).await.unwrap();
            assert_eq!(text, "en: Ada!");
        }
        assert_eq!(service.runs.load(SeqCst), 1, "a skipped parameter is not in the key");
        assert_eq!(client.get(text::key("en".into(), "Ada".into())).await.unwrap().unwrap(), "en: Ada!");
        let numbers = generic::<3, _, _>(&client, &|at| u8::try_from(at).unwrap(), "a", 7).await.unwrap();
        assert_eq!(numbers, [0, 1, 2]);
        assert!(generic::invalidate(&client, "a", 7).await.unwrap());
        let bytes = Bytes::from_static(b"\xff");
        assert_eq!(raw(&client, &bytes).await.unwrap(), Some(bytes.clone()));
        assert_eq!(client.get(raw::key()).await.unwrap(), Some(bytes));
        assert_eq!(large(&client).await.unwrap().unwrap().0, [1, 2]);
        assert_eq!(large(&client).await.unwrap().unwrap().0, [1, 2]);
    });
}

#[test]
fn a_cached_function_within_a_function_sees_its_types_and_the_origin_may_become_absent() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Local(u8);

    #[cached(key = "local", ttl = "1m")]
    async fn local(client: &Client) -> Result<Local, AppError> {
        Ok(Local(1))
    }

    with_client(async |client| {
        // Another program stored that the origin does not have the key.
        let absent = || async { Ok::<_, AppError>(None::<Bytes>) };
        assert_eq!(client.get_or_load(local::key(), absent).negative_ttl(LONG).await.unwrap(), None);
        assert_eq!(local(&client).await.unwrap(), Local(1));
    });
}

#[test]
fn a_stale_result_is_returned_at_once_and_refreshed() {
    #[cached(key = "stale:{id}", ttl = "1ms", stale = "1h")]
    async fn stale(client: &Client, db: &Db, id: u64) -> Result<Option<Profile>, AppError> {
        Ok(db.query(id))
    }

    let db = Db::new([(1, "Ada")]);
    with_client(async |client| {
        let version = async || stale(&client, &db, 1).await.unwrap().unwrap().version;
        let first = version().await;
        // Each call returns a present value, so the versions show that refreshes run in the background.
        while version().await == first {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
