//! Checks the files in docker/: the YAML is valid and consistent with itself and with the server, the alert rules are
//! tested, all named metrics exist, and the queries of the dashboard return data. `image` tests the image.
//!
//! promtool and prometheus come from the Debian package `prometheus`. Without it, their part prints that it is skipped.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, Service},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use redis::Commands;
use serde_json::Value;
use terrace::{
    access::SecretHash,
    clock::Clock,
    config::{Given, Sources, TlsMode, load},
    grpc::client::CacheClient,
    metrics::{ALL, Kind},
    proto::{FillRequest, GetOrLeaseRequest, fill_request::Loaded, get_or_lease_response::Result as Answer},
};

use crate::support::{
    certificates::Authority,
    command::{Killed, has, run},
    eventually,
    grpc::{block_on, connect},
    http, image,
    markdown::Page,
    prefetch,
    process::Process,
    redis::{RedisServer, free_port},
    terrace::{Terrace, config},
};

/// Long deadlines, because the machine may be busy and deadlines are not under test.
const PATIENT: [&str; 4] = ["--l2-read-timeout", "30s", "--l2-write-timeout", "30s"];

/// The page with a section for each alert.
const RUNBOOK: &str = "docs/operations/alerts.md";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")
}

fn text(path: &str) -> String {
    fs::read_to_string(folder().join(path)).unwrap()
}

fn yaml(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn words(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The flags of `serve`, read as settings.
fn given(args: &[String]) -> Vec<Given> {
    let mut flags = Vec::new();
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (&arg[..], args.next().unwrap().clone()),
        };
        let flag = name.strip_prefix("--").unwrap();
        let row = terrace::config::Row::all();
        let row = row.iter().find(|row| row.flag() == flag || row.short_flag() == Some(flag));
        let key = row.unwrap_or_else(|| panic!("no flag {name}")).key;
        flags.push(Given { key, value, flag: flag.to_owned() });
    }
    flags
}

#[test]
fn compose_agrees_with_itself_and_with_the_server() {
    let compose = &yaml("compose.yaml")[0];
    let services = compose["services"].as_object().unwrap();
    let names: Vec<_> = services.keys().map(String::as_str).collect();
    assert_eq!(
        BTreeSet::from_iter(names),
        BTreeSet::from(["grafana", "prometheus", "redis", "terrace-a", "terrace-b"])
    );
    let mut ports = BTreeSet::new();
    for (name, service) in services {
        let image = service["image"].as_str().unwrap();
        assert!(image.split_once(':').is_some_and(|(_, tag)| tag != "latest"), "{name}: {image} has a full tag");
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().unwrap();
            assert!(port.starts_with("127.0.0.1:") && ports.insert(port), "{name}: {port}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            let known = match source.strip_prefix("./") {
                Some(path) => folder().join(path).exists(),
                None => compose["volumes"].get(source).is_some(),
            };
            assert!(known, "{name}: {source}");
        }
    }
    for node in ["terrace-a", "terrace-b"] {
        let flags = given(&words(&services[node]["command"]));
        load(&Sources { flags, file: Some(image::file()), ..Sources::default() }).unwrap();
        let target = format!("{node}:7402");
        assert!(yaml("prometheus/prometheus.yml")[0].to_string().contains(&target), "{target} is scraped");
    }
    assert!(yaml("grafana/provisioning/datasources/prometheus.yaml")[0].to_string().contains("http://prometheus:9090"));
    yaml("grafana/provisioning/dashboards/terrace.yaml");
}

#[test]
fn kubernetes_agrees_with_itself_and_with_the_server() {
    for path in [
        "kubernetes/terrace.yaml",
        "kubernetes/servicemonitor.yaml",
        "kubernetes/podmonitor.yaml",
        "kubernetes/sidecar.yaml",
    ] {
        for object in yaml(path) {
            let kind = object["kind"].as_str().unwrap();
            assert!(object["apiVersion"].is_string() && object["metadata"]["name"].is_string(), "{path}: {kind}");
            if kind == "Deployment" {
                deployment(&object);
            }
            if kind == "ConfigMap" {
                let data = tempfile::tempdir().unwrap();
                let file = data.path().join("terrace.toml");
                fs::write(&file, object["data"]["terrace.toml"].as_str().unwrap()).unwrap();
                let sources = Sources { file: Some(file), ..Sources::default() };
                let config = load(&sources).unwrap().config;
                assert!(config.server.drain_wait + config.server.drain < std::time::Duration::from_secs(30));
            }
        }
    }
    let kinds: Vec<_> = yaml("kubernetes/terrace.yaml").iter().map(|object| object["kind"].clone()).collect();
    for kind in
        ["ConfigMap", "Deployment", "NetworkPolicy", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]
    {
        assert!(kinds.contains(&kind.into()), "{kind}");
    }
}

/// Returns the object as Kubernetes stores it: an unknown field is dropped, and a field of a wrong type is rejected.
fn known_to_kubernetes<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"));
    serde_json::to_value(typed).unwrap()
}

/// Returns where `kept` lacks or changes a field of `given`.
fn lost(given: &Value, kept: &Value, path: &str) -> Vec<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            let below = |(name, value)| lost(value, kept.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"));
            given.iter().flat_map(below).collect()
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            given.iter().zip(kept).flat_map(|(given, kept)| lost(given, kept, path)).collect()
        }
        (given, kept) if given == kept => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[test]
fn kubernetes_knows_every_field() {
    let objects = ["kubernetes/terrace.yaml", "kubernetes/sidecar.yaml"].into_iter().flat_map(yaml);
    for object in objects {
        let kind = object["kind"].as_str().unwrap();
        let kept = match kind {
            "ConfigMap" => known_to_kubernetes::<ConfigMap>(&object),
            "Deployment" => known_to_kubernetes::<Deployment>(&object),
            "NetworkPolicy" => known_to_kubernetes::<NetworkPolicy>(&object),
            "HorizontalPodAutoscaler" => known_to_kubernetes::<HorizontalPodAutoscaler>(&object),
            "PodDisruptionBudget" => known_to_kubernetes::<PodDisruptionBudget>(&object),
            "Service" => known_to_kubernetes::<Service>(&object),
            kind => panic!("nobody has said here what a {kind} is"),
        };
        assert_eq!(lost(&object, &kept, kind), Vec::<String>::new());
    }
}

#[test]
fn kubernetes_objects_find_each_other() {
    let objects = yaml("kubernetes/terrace.yaml");
    let of = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let (deployment, service) = (of("Deployment"), of("Service"));
    let pod = &deployment["spec"]["template"];
    let has_labels = |selector: &Value| {
        selector.as_object().unwrap().iter().all(|(name, value)| pod["metadata"]["labels"][name] == *value)
    };
    assert!(has_labels(&service["spec"]["selector"]));
    assert!(has_labels(&of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]));
    assert!(has_labels(&of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]));
    let scaled = &of("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"];
    assert_eq!((&scaled["kind"], &scaled["name"]), (&deployment["kind"], &deployment["metadata"]["name"]));
    let names = |ports: &Value, field: &str| -> BTreeSet<String> {
        ports.as_array().unwrap().iter().map(|port| port[field].as_str().unwrap().to_owned()).collect()
    };
    let ports = names(&pod["spec"]["containers"][0]["ports"], "name");
    assert_eq!(names(&service["spec"]["ports"], "targetPort"), ports);
    let monitor = &yaml("kubernetes/servicemonitor.yaml")[0]["spec"];
    let labels = monitor["selector"]["matchLabels"].as_object().unwrap();
    assert!(labels.iter().all(|(name, value)| service["metadata"]["labels"][name] == *value));
    assert!(names(&monitor["endpoints"], "port").is_subset(&names(&service["spec"]["ports"], "name")));
    let sidecar = &yaml("kubernetes/sidecar.yaml")[0]["spec"]["template"];
    let monitor = &yaml("kubernetes/podmonitor.yaml")[0]["spec"];
    assert_eq!(monitor["selector"]["matchLabels"], sidecar["metadata"]["labels"]);
    let ports = names(&sidecar["spec"]["initContainers"][0]["ports"], "name");
    assert!(names(&monitor["podMetricsEndpoints"], "port").is_subset(&ports));
    let mounted =
        pod["spec"]["volumes"].as_array().unwrap().iter().filter_map(|volume| volume["configMap"]["name"].as_str());
    assert_eq!(mounted.collect::<Vec<_>>(), [of("ConfigMap")["metadata"]["name"].as_str().unwrap()]);
}

fn deployment(object: &Value) {
    let (spec, template) = (&object["spec"], &object["spec"]["template"]);
    assert_eq!(spec["selector"]["matchLabels"], template["metadata"]["labels"]);
    let pod = &template["spec"];
    let all = |name: &str| pod[name].as_array().cloned().unwrap_or_default();
    let containers = [all("containers"), all("initContainers")].concat();
    let terrace = containers.iter().find(|container| container["name"] == "terrace").unwrap();
    let flags: Vec<String> =
        words(&terrace["args"]).into_iter().filter(|word| !word.contains("terrace.toml")).collect();
    // A mounted file replaces that of the image.
    let is_replaced = flags.contains(&"--config".to_owned());
    let (flags, file) = if is_replaced { (vec![flags[0].clone()], None) } else { (flags, Some(image::file())) };
    load(&Sources { flags: given(&flags), file, ..Sources::default() }).unwrap();
    let ports: Vec<&Value> = terrace["ports"].as_array().unwrap().iter().map(|port| &port["name"]).collect();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let probe = &terrace[probe];
        let port = &probe["httpGet"]["port"];
        assert!(probe["exec"].is_object() || ports.contains(&port), "{probe}");
    }
    for limit in [&terrace["resources"]["requests"]["memory"], &terrace["resources"]["limits"]["memory"]] {
        assert!(limit.is_string());
    }
    let volumes: Vec<_> = all("volumes").iter().map(|volume| volume["name"].clone()).collect();
    for mount in containers.iter().flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten()) {
        assert!(volumes.contains(&mount["name"]), "{mount}");
    }
}

/// Returns the names of Terrace series and of recorded rules in a text.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != ':');
    words.filter(|word| word.starts_with("terrace_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Returns the queries of the dashboard by panel.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("grafana/dashboards/terrace.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().clone();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.iter().flat_map(of).collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let server = Terrace::start(config());
    let (_, page) = http::get(server.http(), "/metrics");
    let mut known: BTreeSet<String> = named(&page);
    known.extend(ALL.iter().map(|metric| metric.name.to_owned()));
    let histograms = ALL.iter().filter(|metric| metric.kind == Kind::Histogram);
    known
        .extend(histograms.flat_map(|metric| ["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name))));
    let rules: String = text("prometheus/alerts.yml").lines().filter(|line| !line.contains('#')).collect();
    let used = queries().iter().map(|(_, query)| query.as_str()).collect::<Vec<_>>().join(" ");
    let unknown: Vec<_> = named(&(rules + &used)).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn the_rules_are_valid_and_tested_and_the_page_of_metrics_is_clean() {
    let rules = &yaml("prometheus/alerts.yml")[0]["groups"][0]["rules"];
    let tested = text("prometheus/alerts_test.yml");
    let runbook = Page::read(RUNBOOK);
    for rule in rules.as_array().unwrap() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        assert!(tested.contains(&format!("alertname: {alert}\n")), "{alert} has a test");
        let anchor = alert.to_lowercase();
        assert_eq!(rule["annotations"]["runbook"], format!("{RUNBOOK}#{anchor}"), "{alert}");
        let section = runbook.section(&anchor).unwrap_or_else(|| panic!("{RUNBOOK} has no section {alert}"));
        for part in ["**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Remedy.**"] {
            assert!(section.contains(part), "{RUNBOOK}, section {alert}, has no part {part}");
        }
    }
    if !has("promtool") {
        return;
    }
    let at = folder().join("prometheus");
    run(Command::new("promtool").current_dir(&at).args(["check", "rules", "alerts.yml"]));
    run(Command::new("promtool").current_dir(&at).args(["test", "rules", "alerts_test.yml"]));
    let server = Terrace::start(config());
    let mut client = redis::Client::open(format!("redis://{}", server.resp())).unwrap().get_connection().unwrap();
    client.set::<_, _, ()>("k", "v").unwrap();
    let (_, page) = http::get(server.http(), "/metrics");
    let mut check = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    assert!(check.wait().unwrap().success());
}

#[test]
fn the_deployment_page_names_every_manifest() {
    let page = Page::read("docs/operations/deploy.md");
    let linked: BTreeSet<String> = page.links().into_iter().map(|(_, link)| link).collect();
    for path in [
        "Dockerfile",
        "compose.yaml",
        "kubernetes/terrace.yaml",
        "kubernetes/sidecar.yaml",
        "kubernetes/servicemonitor.yaml",
        "systemd/terrace.service",
        "prometheus/alerts.yml",
        "grafana/dashboards/terrace.json",
    ] {
        assert!(linked.contains(&format!("../../docker/{path}")), "{} does not link docker/{path}", page.path);
    }
}

/// Number of users that the nodes read while the dashboard is queried: each new user has a profile.
const USERS: std::ops::Range<u32> = prefetch::TAUGHT.start..40_000;
/// Number of reads of the users to learn from: TTL advice needs 20 intervals of sampled keys, and 1 key in 64 is
/// sampled.
const PASSES: usize = 12;

/// A Prometheus that scrapes these servers.
fn prometheus(data: &Path, targets: &[&str]) -> (Killed, String) {
    prometheus_with(data, &prometheus_config(targets))
}

/// The configuration of docker/ with these servers and short intervals.
fn prometheus_config(targets: &[&str]) -> String {
    let config = text("prometheus/prometheus.yml")
        .replace("[\"terrace-a:7402\", \"terrace-b:7402\"]", &format!("{targets:?}"))
        .replace("scrape_interval: 5s", "scrape_interval: 1s")
        .replace("evaluation_interval: 15s", "evaluation_interval: 1s")
        .replace("/etc/prometheus/alerts.yml", folder().join("prometheus/alerts.yml").to_str().unwrap());
    assert!(targets.iter().all(|target| config.contains(target)), "{config}");
    config
}

fn prometheus_with(data: &Path, config: &str) -> (Killed, String) {
    let file = data.join("prometheus.yml");
    fs::write(&file, config).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", data.join("tsdb").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Killed(child), address)
}

fn ask(prometheus: &str, query: &str) -> Vec<Value> {
    let url = format!("http://{prometheus}/api/v1/query");
    let output =
        Command::new("curl").args(["-sG", &url, "--data-urlencode", &format!("query={query}")]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

/// Loads an absent key with a lease. Over Redis, a fill is stored seconds after the first lease.
fn load_key(grpc: &str, key: String) {
    block_on(async {
        let (mut cache, key) = (CacheClient::new(connect(grpc).await), bytes::Bytes::from(key));
        let request = GetOrLeaseRequest { key: key.clone(), ..GetOrLeaseRequest::default() };
        let answer = cache.get_or_lease(request).await.map(|answer| answer.into_inner().result);
        if let Ok(Some(Answer::Load(load))) = answer {
            let token = load.grant.unwrap_or_default().token;
            let loaded = Some(Loaded::Value("v".into()));
            let _filled = cache.fill(FillRequest { key, token, loaded, ..FillRequest::default() }).await;
        }
    });
}

/// A server with TLS and users whose certificate expires in three days, and the tokens `token` and `wrong` in files.
fn secured(data: &Path) -> Terrace {
    let authority = Authority::new();
    authority.write(data);
    let now_s = Clock::real().unix().0 / 1_000;
    let (certificate, key) = authority.issue_until_second(now_s + 3 * 86_400).write(data, "server");
    let users = format!(
        "[[user]]\nname = \"prometheus\"\nroles = [\"scraper\"]\nsecrets = [{:?}]\n",
        SecretHash::of(b"secret-token").to_text()
    );
    fs::write(data.join("users.toml"), users).unwrap();
    fs::write(data.join("token"), "secret-token").unwrap();
    fs::write(data.join("wrong"), "another-token").unwrap();
    let mut config = config();
    config.auth.file = Some(data.join("users.toml"));
    config.tls.mode = TlsMode::On;
    (config.tls.cert_file, config.tls.key_file) = (Some(certificate), Some(key));
    Terrace::start(config)
}

#[test]
fn prometheus_scrapes_with_tls_and_a_token() {
    if !has("prometheus") {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let server = secured(data.path());
    // The job of docs/operations/security.md, once with its token, once with a wrong one, and once without.
    let documented = Page::read("docs/operations/security.md").text;
    let (_, job) = documented.split_once("scrape_configs:\n").unwrap();
    let (job, _) = job.split_once("```").unwrap();
    assert!(job.contains("scheme: https") && job.contains("credentials_file: /etc/prometheus/terrace-token"), "{job}");
    let job = |name: &str, token: &str| {
        let token = data.path().join(token).display().to_string();
        let job = job.replace("job_name: terrace", &format!("job_name: {name}"));
        let job = job.replace("terrace-a:7402", server.http()).replace("/etc/prometheus/terrace-token", &token);
        format!("{job}    tls_config: {{ ca_file: {} }}\n", data.path().join("ca.pem").display())
    };
    let plain = prometheus_config(&[server.http()]);
    let (global, jobs) = plain.split_once("  - job_name: terrace\n").unwrap();
    let without = format!("  - job_name: without\n{jobs}");
    let config = format!("{global}{}{}{without}", job("terrace", "token"), job("wrong", "wrong"));
    let (_running, prometheus) = prometheus_with(data.path(), &config);
    let up = |job: &str, up: &str| {
        eventually(&format!("{job} is {up}"), || {
            let answer = ask(&prometheus, &format!("up{{job={job:?}}}"));
            answer.first().is_some_and(|series| series["value"][1] == up)
        });
    };
    up("terrace", "1");
    up("wrong", "0");
    up("without", "0");
    eventually("the metrics are stored and the refused scrapes are counted", || {
        !ask(&prometheus, "terrace_auth_total{job=\"terrace\",port=\"http\",result=\"failed\"} > 0").is_empty()
    });
    eventually("the alert notices the expiry of the certificate on each port", || {
        ask(&prometheus, "ALERTS{alertname=\"TerraceCertificateExpires\"}").len() == 3
    });
}

#[test]
fn every_query_of_the_dashboard_returns_data() {
    if !has("prometheus") {
        return;
    }
    let (redis, data) = (RedisServer::start(), tempfile::tempdir().unwrap());
    prefetch::write(&redis, USERS);
    let file = data.path().join("terrace.toml");
    fs::write(&file, "[[policy]]\nmatch = \"profile:*\"\nttl = \"tune\"\n").unwrap();
    let given = ["--config", file.to_str().unwrap(), "--l2", &redis.url()].map(str::to_owned);
    let given: Vec<&str> = given.iter().map(String::as_str).chain(PATIENT).collect();
    let start = |name: &str| Process::start(&data.path().join(name), &given);
    let nodes = [start("a"), start("b")];
    let targets: Vec<&str> = nodes.iter().map(|node| node.http.as_str()).collect();
    let (_running, prometheus) = prometheus(data.path(), &targets);
    let mut clients = nodes
        .iter()
        .map(|node| redis::Client::open(format!("redis://{}", node.resp)).unwrap().get_connection().unwrap())
        .collect::<Vec<_>>();
    // Enough traffic to learn rules and TTLs; the rules then continue to predict.
    for client in &mut clients {
        (0..PASSES).for_each(|_| prefetch::TAUGHT.for_each(|user| prefetch::read(client, user)));
    }
    let mut users = USERS.skip(prefetch::TAUGHT.len()).cycle();
    for (panel, query) in queries() {
        let query = query.replace("$job", ".*").replace("$instance", ".*");
        let query = query.replace("$__rate_interval", "15s").replace("$__range", "1m");
        let mut answer = Vec::new();
        eventually(&format!("{panel}: {query} returns data"), || {
            let user = users.next().unwrap();
            nodes.iter().for_each(|node| load_key(&node.grpc, format!("load:{}:{user}", node.http)));
            for client in &mut clients {
                prefetch::read(client, user);
                client.set::<_, _, ()>("user:name", "v").unwrap();
                let _missing: Option<String> = client.get("nowhere").unwrap();
            }
            answer = ask(&prometheus, &query);
            let number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
            !answer.is_empty() && answer.iter().any(number)
        });
    }
}
