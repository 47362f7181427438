//! The scenarios in `clients/conformance`, run by the Rust client over Redis, the embedded store and no L2, and against its
//! fake. The README there defines the format.

mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use serde_json::Value;
use terrace_client::{Client, NearCache, testing::Fake};

use crate::support::{
    PATIENCE,
    grpc::pause,
    node::{World, connected_node, over_embedded, over_none, over_redis},
    redis::RedisServer,
    terrace::Terrace,
};
use steps::{Saved, bytes, execute, matches, names};

/// Scenarios of all files, in the order of the files: file, scenario.
fn scenarios() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/conformance");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        names(&file, &["about", "scenarios"]).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenarios = file["scenarios"].as_array().expect("a list");
        all.extend(scenarios.iter().map(|scenario| (name.clone(), scenario.clone())));
    }
    all
}

fn applies(scenario: &Value, store: &str) -> bool {
    names(scenario, &["name", "stores", "steps"]).unwrap();
    scenario["stores"].as_array().is_none_or(|stores| stores.iter().any(|name| name == store))
}

/// Time that passes on the clock of a fake before a step is repeated.
const FAKE_PAUSE: Duration = Duration::from_millis(10);

/// The cache that scenarios run against.
struct Cache {
    client: Client,
    /// Set if the cache is a fake, whose clock the runner moves.
    fake: Option<Fake>,
    /// Time after which an invalidation is in force for the next step.
    invalidates_within: Duration,
}

/// Time after which all nodes follow an invalidation: docs/concepts/invalidation.md.
const OTHER_NODES_WITHIN: Duration = Duration::from_secs(1);

impl Cache {
    async fn of(world: &World) -> Self {
        let builder = Client::builder(world.node.grpc()).read_timeout(PATIENCE).write_timeout(PATIENCE);
        Self { client: builder.connect().await.unwrap(), fake: None, invalidates_within: Duration::ZERO }
    }

    /// A client with a near cache: the results must be the same.
    async fn near(world: &World) -> Self {
        let builder = Client::builder(world.node.grpc()).read_timeout(PATIENCE).write_timeout(PATIENCE);
        let client = builder.near_cache(NearCache::new()).connect().await.unwrap();
        while client.near_stats().is_none_or(|stats| stats.feeds == 0) {
            pause().await;
        }
        Self { client, fake: None, invalidates_within: Duration::ZERO }
    }

    /// A client of several nodes over one store.
    async fn fleet(nodes: &[Terrace]) -> Self {
        let targets: Vec<&str> = nodes.iter().map(Terrace::grpc).collect();
        let builder = Client::builder(targets.join(",")).read_timeout(PATIENCE).write_timeout(PATIENCE);
        let client = builder.connect().await.unwrap();
        while client.stats().await.is_err() {
            pause().await;
        }
        Self { client, fake: None, invalidates_within: OTHER_NODES_WITHIN }
    }

    fn fake() -> Self {
        let fake = Fake::new();
        Self { client: fake.client(), fake: Some(fake), invalidates_within: Duration::ZERO }
    }

    /// Lets time pass before a step is repeated.
    async fn pause(&self) {
        match &self.fake {
            None => pause().await,
            Some(fake) => {
                // The release of a grant runs in a task.
                tokio::task::yield_now().await;
                fake.advance(FAKE_PAUSE);
            }
        }
    }
}

/// Runs one scenario; fails with the number of the step that did not have its result.
async fn run(cache: &Cache, scenario: &Value) -> Result<(), String> {
    let mut saved = Saved::default();
    for (number, step) in scenario["steps"].as_array().expect("steps").iter().enumerate() {
        let started = tokio::time::Instant::now();
        loop {
            let Err(why) = try_step(&cache.client, step, &mut saved).await else { break };
            if step["eventually"] != true || started.elapsed() > PATIENCE {
                return Err(format!("step {}: {why}\n    {step}", number + 1));
            }
            cache.pause().await;
        }
        if step["do"].as_str().is_some_and(|name| name.starts_with("invalidate")) {
            tokio::time::sleep(cache.invalidates_within).await;
        }
    }
    Ok(())
}

async fn try_step(client: &Client, step: &Value, saved: &mut Saved) -> Result<(), String> {
    let (result, grant) = match execute(client, step, saved).await? {
        Ok(done) => done,
        Err(error) => return check_error(step, &error),
    };
    if !step["error"].is_null() {
        return Err(format!("succeeded with {result}"));
    }
    if let Some(expected) = step.get("expect")
        && !matches(expected, &result)
    {
        return Err(format!("the result is {result:.200}"));
    }
    if step["do"] == "get_or_lease"
        && let Some(name) = step["save"].as_str()
    {
        let grant = grant.ok_or("the result has no grant")?;
        saved.grants.insert(name.to_owned(), grant);
    }
    Ok(())
}

fn check_error(step: &Value, error: &terrace_client::Error) -> Result<(), String> {
    let expected = &step["error"];
    let has_text = expected["message_has"].as_str().is_none_or(|text| error.message().contains(text));
    let is_expected = expected["kind"] == format!("{:?}", error.kind()) && has_text;
    if is_expected { Ok(()) } else { Err(format!("failed with {error:?}")) }
}

/// Runs all scenarios over one store.
fn run_all(store: &str, cache: impl Future<Output = Cache>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let faults: Vec<String> = runtime.block_on(async {
        let cache = cache.await;
        let mut faults = Vec::new();
        for (file, scenario) in scenarios().iter().filter(|(_, scenario)| applies(scenario, store)) {
            if let Err(why) = run(&cache, scenario).await {
                faults.push(format!("{file}: {}: {why}", scenario["name"]));
            }
        }
        faults
    });
    assert!(faults.is_empty(), "{} faults over {store}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn with_a_near_cache_all_scenarios_hold() {
    run_all("redis", Cache::near(&over_redis()));
    run_all("none", Cache::near(&over_none()));
}

#[test]
fn over_redis_all_scenarios_hold() {
    run_all("redis", Cache::of(&over_redis()));
}

/// The nodes of a client are one cache.
#[test]
fn over_two_nodes_all_scenarios_hold() {
    let redis = RedisServer::start();
    run_all("redis", Cache::fleet(&[connected_node(&redis.url()), connected_node(&redis.url())]));
}

#[test]
fn over_the_embedded_store_all_scenarios_hold() {
    run_all("embedded", Cache::of(&over_embedded()));
}

#[test]
fn without_an_l2_all_scenarios_hold() {
    run_all("none", Cache::of(&over_none()));
}

/// The fake has the same answers as a server without L2.
#[test]
fn against_the_fake_all_scenarios_hold() {
    run_all("none", async { Cache::fake() });
}

/// Returns the keys and tags of a step.
fn used(step: &Value) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let items = [step].into_iter().chain(step["entries"].as_array().into_iter().flatten());
    for item in items {
        for field in ["keys", "tags"] {
            found.extend(item[field].as_array().into_iter().flatten().map(|item| bytes(item).unwrap()));
        }
        found.extend(item.get("key").map(|key| bytes(key).unwrap()));
    }
    found
}

#[test]
fn scenarios_have_different_names_and_keys() {
    let mut owners: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut all = BTreeSet::new();
    for (file, scenario) in scenarios() {
        let name = format!("{file}: {}", scenario["name"]);
        assert!(all.insert(name.clone()), "{name} exists twice");
        for step in scenario["steps"].as_array().expect("steps") {
            for key in used(step).into_iter().filter(|key| !key.is_empty()) {
                let owner = owners.entry(key.clone()).or_insert_with(|| name.clone());
                assert_eq!(*owner, name, "both use {:?}", String::from_utf8_lossy(&key));
            }
        }
    }
    assert!(all.len() > 30, "only {} scenarios are found", all.len());
}

#[test]
fn the_runner_notices_wrong_results() {
    let world = over_none();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let cache = Cache::of(&world).await;
        for (step, why) in [
            (r#"{"do": "get", "key": "k", "expect": "v"}"#, "the result is null"),
            (r#"{"do": "set", "key": "k", "value": "v", "error": {"kind": "Internal"}}"#, "succeeded with true"),
            (r#"{"do": "get", "key": "", "error": {"kind": "Internal"}}"#, "failed with InvalidArgument"),
            (r#"{"do": "get", "key": "", "expect": null}"#, "failed with InvalidArgument"),
            (r#"{"do": "get", "kee": "k"}"#, "unknown field \"kee\""),
            (r#"{"do": "pop", "key": "k"}"#, "unknown operation \"pop\""),
            (r#"{"do": "get_or_lease", "key": "k", "save": "g"}"#, "the result has no grant"),
            (r#"{"do": "fill", "grant": "g", "value": "v"}"#, "no grant \"g\""),
            (r#"{"do": "next_event", "watch": "w"}"#, "no watch \"w\""),
            (r#"{"do": "stats", "expect": {"nodes": 2}}"#, "the result is"),
        ] {
            let scenario = serde_json::json!({ "name": "n", "steps": [serde_json::from_str::<Value>(step).unwrap()] });
            let fault = run(&cache, &scenario).await.unwrap_err();
            assert!(fault.contains(why), "{step}: {fault}");
        }
    });
}
