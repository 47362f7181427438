//! Prefetch over a real Redis: a miss prefetches predicted keys, and every port reports the result.

use futures_util::stream;
use redis::{Commands, Connection};
use rustix::process::Signal;
use terrace::{
    cache::policy::Prefetch,
    proto::{
        GetAssociationsRequest, GetRequest, Operation, PipelineRequest, cache_client::CacheClient,
        insight_client::InsightClient, operation,
    },
};
use tokio::sync::mpsc;

use crate::support::{
    eventually,
    grpc::{block_on, connect},
    http,
    prefetch::{NEW, fetched, predicted, read, redis_with_users, taught},
    process::Process,
    resp::connection,
    terrace::Terrace,
};

/// A sample of the metrics page; 0 if there is none.
fn metric(terrace: &Terrace, name: &str) -> f64 {
    http::metric(terrace.http(), name).unwrap_or_default()
}

fn count(terrace: &Terrace, outcome: &str) -> f64 {
    metric(terrace, &format!("terrace_prefetch_total{{outcome=\"{outcome}\"}}"))
}

/// Returns whether L1 of this node has a key.
fn is_resident(resident: &mut Connection, key: &str) -> bool {
    resident.exists(key).expect("an answer")
}

fn select(terrace: &Terrace, database: u8) -> Connection {
    let mut client = connection(terrace.resp());
    redis::cmd("SELECT").arg(database).query::<()>(&mut client).expect("there is one");
    client
}

#[test]
fn the_profile_of_a_user_never_seen_comes_with_the_user() {
    let (redis, terrace, mut client) = taught(Prefetch::Auto);
    let mut resident = select(&terrace, 1);
    let users: Vec<u32> = fetched(&terrace).take(102).collect();
    let profile = |at: usize| format!("profile:{}", users[at]);
    let of = |at: usize| format!("user:{}", users[at]);
    assert!(!is_resident(&mut resident, &profile(0)));
    let _user: String = client.get(of(0)).expect("an answer");
    assert!(is_resident(&mut resident, &profile(0)), "it rode with the miss: it is there when that is answered");
    let used = count(&terrace, "used");
    users[..100].iter().for_each(|&user| read(&mut client, user));
    assert!(count(&terrace, "used") >= used + 95.0, "{} after {used}", count(&terrace, "used"));
    assert!(count(&terrace, "wasted") <= 5.0);
    // The key group, here that of the policy, has the same counts.
    let by_group = metric(&terrace, "terrace_group_prefetch_total{group=\"*\",outcome=\"used\"}");
    assert_eq!(by_group, count(&terrace, "used"));
    // A prefetched copy is invalidated like any other.
    let _user: String = client.get(of(101)).expect("an answer");
    assert!(is_resident(&mut resident, &profile(101)));
    let mut straight = redis.connect();
    straight.set::<_, _, ()>(profile(101), "newer").expect("written");
    eventually("the staged copy goes", || !is_resident(&mut resident, &profile(101)));
    let value: String = client.get(profile(101)).expect("an answer");
    assert_eq!(value, "newer");
}

#[test]
fn a_shadow_measures_and_fetches_nothing_and_off_does_not_even_learn() {
    let (_redis, terrace, _client) = taught(Prefetch::Shadow);
    assert_eq!(count(&terrace, "issued"), 0.0);
    assert!(count(&terrace, "shadow") > 100.0);
    let (_redis, terrace, _client) = taught(Prefetch::Off);
    assert_eq!((count(&terrace, "shadow"), metric(&terrace, "terrace_learn_keys")), (0.0, 0.0));
}

#[test]
fn what_was_learned_shows_in_database_2_and_over_grpc() {
    let (_redis, terrace, _client) = taught(Prefetch::Auto);
    let mut learned = select(&terrace, 2);
    let keys: Vec<String> = learned.scan().expect("a scan").collect::<Result<_, _>>().expect("keys");
    assert!(keys.contains(&"template:user:{d}".to_owned()) && keys.contains(&"assoc:user:10007".to_owned()));
    let template: String = learned.get("template:user:{d}").expect("an answer");
    assert!(template.contains("\"makes\":\"profile:{1}\""), "{template}");
    let association: String = learned.get("assoc:user:10007").expect("an answer");
    assert!(association.contains("\"key\":\"profile:10007\""), "{association}");
    assert!(fetched(&terrace).next().is_some());
    block_on(async {
        let mut insight = InsightClient::new(connect(terrace.grpc()).await);
        let request = GetAssociationsRequest { key: "user:10007".into() };
        let known = insight.get_associations(request).await.expect("an answer").into_inner();
        assert_eq!(known.associations[0].key, "profile:10007");
        assert!(known.rules.iter().any(|rule| rule.template == "user:{d}" && rule.makes == "profile:{1}"));
        assert!(
            known.total.is_some_and(|total| total.issued > 0)
                && known.groups.iter().any(|group| group.name == "profile")
        );
        let nobody = insight.get_associations(GetAssociationsRequest { key: "nobody".into() }).await;
        assert_eq!(nobody.expect_err("unknown").code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn requests_of_one_trace_belong_together_whatever_connection_they_come_by() {
    let (_redis, terrace, _client) = taught(Prefetch::Shadow);
    block_on(async {
        let channels = [connect(terrace.grpc()).await, connect(terrace.grpc()).await];
        for (channel, key) in channels.into_iter().zip(["user:20010", "profile:20020"]) {
            let mut request = tonic::Request::new(GetRequest { key: key.into(), options: None });
            let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            request.metadata_mut().insert("traceparent", trace.parse().expect("a header"));
            CacheClient::new(channel).get(request).await.expect("an answer");
        }
    });
    let mut learned = select(&terrace, 2);
    let association: String = learned.get("assoc:user:20010").expect("an answer");
    assert!(association.contains("\"key\":\"profile:20020\""), "{association}");
}

#[test]
fn contexts_of_one_stream_are_learned_as_separate_callers() {
    let (_redis, terrace, _client) = taught(Prefetch::Shadow);
    block_on(async {
        let mut client = CacheClient::new(connect(terrace.grpc()).await);
        let (batches, received) = mpsc::channel(1);
        let requests = stream::unfold(received, async |mut received| Some((received.recv().await?, received)));
        let mut answers = client.pipeline(requests).await.expect("a stream").into_inner();
        for (context, key) in
            [(7, "user:20010"), (8, "user:20011"), (7, "profile:20020"), (8, "profile:20021"), (0, "profile:20022")]
        {
            let get = GetRequest { key: key.into(), options: None };
            let operation = Operation { id: 1, operation: Some(operation::Operation::Get(get)), context };
            let batch = PipelineRequest { operations: vec![operation] };
            batches.send(batch).await.expect("the stream is open");
            answers.message().await.expect("a message").expect("a result");
        }
    });
    let mut learned = select(&terrace, 2);
    for (user, profile) in [("20010", "20020"), ("20011", "20021")] {
        let association: String = learned.get(format!("assoc:user:{user}")).expect("an answer");
        assert!(association.contains(&format!("\"key\":\"profile:{profile}\"")), "{association}");
        assert_eq!(association.matches("\"key\":").count(), 1, "one key follows: {association}");
    }
}

#[test]
fn the_gain_is_measured_by_keys_that_are_left_out() {
    let (_redis, terrace, mut client) = taught(Prefetch::Auto);
    let control = |set: &str, outcome: &str| {
        metric(&terrace, &format!("terrace_prefetch_control_total{{set=\"{set}\",outcome=\"{outcome}\"}}"))
    };
    let left_out = NEW
        .filter(|&user| predicted(&terrace, user).is_some_and(|it| it.why.contains("excluded, to measure the gain")));
    let left_out: Vec<u32> = left_out.collect();
    let expected = NEW.len() / 16;
    assert!((expected / 2..expected * 2).contains(&left_out.len()), "{} of {}", left_out.len(), NEW.len());
    let mut resident = select(&terrace, 1);
    let _user: String = client.get(format!("user:{}", left_out[0])).expect("an answer");
    assert!(!is_resident(&mut resident, &format!("profile:{}", left_out[0])), "it is not fetched");
    NEW.for_each(|user| read(&mut client, user));
    let [without, with] = ["without", "with"].map(|set| (control(set, "decided"), control(set, "missed")));
    assert!(without.0 >= 50.0 && without.1 >= 0.95 * without.0, "they are missed: {without:?}");
    assert!(with.0 >= 50.0 && with.1 <= 0.05 * with.0, "they are not: {with:?}");
    // Prefetch saves one of two reads of each user, except for the control group and the taught users.
    let gain = metric(&terrace, "terrace_prefetch_gain");
    assert!((0.3..0.55).contains(&gain), "{gain}");
    block_on(async {
        let mut insight = InsightClient::new(connect(terrace.grpc()).await);
        let known = insight.get_associations(GetAssociationsRequest::default()).await.expect("an answer").into_inner();
        let told = known.control.expect("it is told");
        assert_eq!((told.without_decided as f64, told.with_missed as f64), (without.0, with.1));
        assert!(told.gain.is_some_and(|told| (told - gain).abs() < 1e-6) && told.gain_deviation.is_some());
    });
    let (_, page) = http::get(terrace.http(), "/api/learned");
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    let shown = &page["prefetch"]["gain"];
    assert!(shown["part"].as_f64().is_some_and(|shown| (shown - gain).abs() < 1e-6), "{shown}");
    assert!(shown["deviation"].as_f64() > Some(0.0), "{shown}");
}

#[test]
fn a_key_that_l2_does_not_have_is_not_asked_for_again() {
    let (redis, terrace, mut client) = taught(Prefetch::Auto);
    let (mut straight, mut resident) = (redis.connect(), select(&terrace, 1));
    let user = fetched(&terrace).next().expect("one is fetched");
    let (key, profile) = (format!("user:{user}"), format!("profile:{user}"));
    straight.del::<_, ()>(&profile).expect("deleted");
    let mut read_below = |why: &str| {
        let before = metric(&terrace, "terrace_l2_keys_read_total");
        let _user: String = client.get(&key).expect("an answer");
        let read = metric(&terrace, "terrace_l2_keys_read_total") - before;
        // A write invalidates the copy, so that the next read is a miss again.
        straight.set::<_, _, ()>(&key, "changed").expect("written");
        eventually("the copy goes", || !is_resident(&mut resident, &key));
        println!("{why}: {read} keys");
        read
    };
    assert_eq!(read_below("the first time"), 2.0, "the profile rides along, and is not there");
    // The result is processed with the next event.
    assert_eq!(read_below("the second time"), 1.0, "it is remembered");
    let prediction = predicted(&terrace, user).expect("the rule speaks of it");
    assert!(!prediction.fetched && prediction.why.contains("recently absent from L2"), "{}", prediction.why);
    assert_eq!(read_below("the third time"), 1.0);
    assert!(count(&terrace, "wasted") >= 1.0);
}

#[test]
fn a_policy_changes_by_sighup_what_prefetch_may_do() {
    let (redis, folder) = (redis_with_users(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("terrace.toml");
    let write = |prefetch: &str| {
        let policy = format!("[[policy]]\nmatch = \"*\"\nprefetch = \"{prefetch}\"\n");
        std::fs::write(&file, policy).expect("written");
    };
    write("off");
    let path = file.to_str().expect("UTF-8");
    let args = ["--l2", &redis.url(), "--l2-read-timeout", "30s", "--server-workers", "1", "--config", path];
    let node = Process::start(folder.path(), &args);
    let count = |outcome: &str| {
        http::metric(&node.http, &format!("terrace_prefetch_total{{outcome=\"{outcome}\"}}")).unwrap_or_default()
    };
    let is_open = || http::metric(&node.http, "terrace_coherence_open") == Some(1.0);
    let mut reloads = 0;
    let mut reload = |prefetch: &str| {
        write(prefetch);
        node.signal(Signal::HUP);
        reloads += 1;
        eventually("it is taken", || node.log().matches("configuration reloaded").count() == reloads && is_open());
    };
    let mut client = connection(&node.resp);
    let mut users = NEW;
    let mut read_some = || users.by_ref().take(200).for_each(|user| read(&mut client, user));
    eventually("L1 opens", is_open);
    read_some();
    assert_eq!((count("shadow"), count("issued")), (0.0, 0.0), "off");
    reload("shadow");
    read_some();
    assert!(count("shadow") > 50.0);
    assert_eq!(count("issued"), 0.0, "a shadow fetches nothing");
    reload("auto");
    read_some();
    let issued = count("issued");
    assert!(issued > 100.0, "{issued}: what the shadow has proven is fetched at once");
    reload("off");
    read_some();
    assert_eq!(count("issued"), issued);
}
