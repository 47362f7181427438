//! Configuration: what each source accepts, which source has precedence, and that every fault is reported with its
//! place.

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;
use terrace::config::{self, Given, Loaded, Row, Sources, load};

/// A file that lives as long as the test.
struct File {
    _folder: TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("terrace.toml");
    fs::write(&path, text).expect("written");
    File { _folder: folder, path }
}

fn flag(key: &'static str, value: &str) -> Given {
    Given { key, flag: key.replace(['.', '_'], "-"), value: value.into() }
}

fn from_file(text: &str) -> Result<Loaded, Vec<String>> {
    let file = file(text);
    let loaded = load(&Sources { file: Some(file.path.clone()), ..Sources::default() });
    loaded.map_err(|faults| {
        let name = file.path.display().to_string();
        faults.0.iter().map(|fault| fault.to_string().replace(&name, "FILE")).collect()
    })
}

fn from_flags(flags: Vec<Given>) -> Result<Loaded, Vec<String>> {
    let loaded = load(&Sources { flags, ..Sources::default() });
    loaded.map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
}

fn faults_of(text: &str) -> Vec<String> {
    from_file(text).expect_err("it is faulty")
}

fn shown<'a>(loaded: &'a Loaded, key: &str) -> (&'a str, &'a str) {
    let setting = loaded.settings.iter().find(|setting| setting.key == key).expect("a setting");
    (&setting.value, &setting.source)
}

#[test]
fn sources_are_named_without_their_values() {
    assert_eq!(Sources::default().to_string(), "defaults");
    let variables =
        [("TERRACE_CONFIG", "/etc/terrace.toml"), ("TERRACE_L2_URL", "redis://:hunter2@host"), ("TERRACE_PORT", "1")];
    let sources = Sources {
        file: None,
        environment: variables.map(|(name, value)| (name.into(), value.into())).into(),
        flags: vec![flag("l1.size", "1GiB"), flag("resp.addr", ":1")],
        ..Sources::default()
    };
    assert_eq!(sources.to_string(), "file /etc/terrace.toml, env TERRACE_L2_URL, flags --l1-size --resp-addr");
    let named = Sources { file: Some("here.toml".into()), ..sources };
    assert!(named.to_string().starts_with("file here.toml, "), "{named}");
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = file("[l1]\nsize = \"1GiB\"\nmax_age = \"30s\"\n\n[l2]\nconnections = 3\n");
    let variables = [("TERRACE_L1_MAX_AGE", "20s"), ("TERRACE_L2_CONNECTIONS", "4")];
    let loaded = load(&Sources {
        file: Some(file.path.clone()),
        environment: variables.map(|(name, value)| (name.into(), value.into())).into(),
        flags: vec![flag("l2.connections", "5")],
        ..Sources::default()
    })
    .expect("valid");
    let path = file.path.display();
    assert_eq!(shown(&loaded, "l2.connections"), ("5", "flag --l2-connections"));
    assert_eq!(shown(&loaded, "l1.max_age"), ("\"20s\"", "env TERRACE_L1_MAX_AGE"));
    assert_eq!(shown(&loaded, "l1.size"), ("\"1GiB\"", &*format!("file {path}:2")));
    assert_eq!(shown(&loaded, "server.drain"), ("\"10s\"", "default"));
    assert_eq!(loaded.config.l2.connections, 5);
    assert_eq!(loaded.config.l1.max_age, Duration::from_secs(20));
    assert_eq!(loaded.config.l1.size, 1 << 30);
}

#[test]
fn the_environment_may_name_the_file() {
    let file = file("[l1]\nsize = 1048576\n");
    let environment = vec![("TERRACE_CONFIG".to_owned(), file.path.display().to_string())];
    let loaded = load(&Sources { environment, ..Sources::default() }).expect("valid");
    assert_eq!(loaded.config.l1.size, 1 << 20);
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

/// What is shown can be written again, in the file and as a flag, and means the same: for every row of the table.
#[test]
fn every_default_can_be_written_as_it_is_shown() {
    for row in Row::all() {
        let (section, name) = row.key.split_once('.').expect("section.name");
        let text = format!("[{section}]\n{name} = {}\n", row.default_value());
        let loaded = from_file(&text).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
        assert_eq!(shown(&loaded, row.key).0, row.default_value());
        let word = row.default_value().trim_matches(['"', '[', ']']).to_owned();
        let loaded = from_flags(vec![flag(row.key, &word)]).unwrap_or_else(|faults| panic!("{word}: {faults:?}"));
        assert_eq!(shown(&loaded, row.key).0, row.default_value());
        assert!(!row.doc.trim().is_empty() && !(row.form)().is_empty(), "{}", row.key);
    }
}

#[test]
fn units_are_read_and_shown_in_the_largest_that_fits() {
    for (written, shown_as) in [
        ("256MiB", "\"256MiB\""),
        ("2GiB", "\"2GiB\""),
        ("1048577", "1048577"),
        ("1.5GiB", "\"1536MiB\""),
        ("1 MB", "1000000"),
    ] {
        let loaded = from_flags(vec![flag("l1.size", written)]).expect(written);
        assert_eq!(shown(&loaded, "l1.size").0, shown_as, "{written}");
    }
    for (written, shown_as) in [("5m", "\"5m\""), ("90s", "\"1m 30s\""), ("1500ms", "\"1s 500ms\"")] {
        let loaded = from_flags(vec![flag("grpc.timeout", written)]).expect(written);
        assert_eq!(shown(&loaded, "grpc.timeout").0, shown_as, "{written}");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_with_what_could_be() {
    for (key, value, part) in [
        ("l1.size", "3 parsecs", "\"3 parsecs\" is not a size such as 256MiB"),
        ("l1.size", "-1", "is not a size"),
        ("l1.size", "1KiB", "1KiB is out of range; expected 64KiB to 16TiB"),
        ("l1.size", "99999999999PiB", "is out of range"),
        ("l1.max_age", "30", "is not a duration with a unit"),
        ("l1.max_age", "0s", "0s is out of range; expected 1ms to 1day"),
        ("l1.max_age", "100us", "is not a multiple of 1ms"),
        ("l1.max_entries", "0", "0 is out of range"),
        ("server.workers", "two", "\"two\" is not a whole number"),
        ("server.expose", "yes", "\"yes\" is not true or false"),
        ("server.log", "loud", "is not a log level"),
        ("server.log", "terrace=loud", "is not a log level"),
        ("server.log", "", "is not a log level"),
        ("data.sync", "sometimes", "\"sometimes\" is not interval or always"),
        ("data.dir", "", "is not a path"),
        ("grpc.addr", "nope", "\"nope\" has no port; expected host:port"),
        ("grpc.addr", "127.0.0.1:70000", "invalid port \"70000\"; expected 0 to 65535"),
        ("grpc.addr", "127.0.0.256:7400", "is not host:port"),
        ("grpc.addr", "::1:7400", "is not host:port"),
        ("grpc.addr", "unix:terrace", "is not an absolute path of a socket"),
        ("l2.url", "memcached://a", "unsupported scheme \"memcached\"; expected redis://"),
        ("l2.url", "embedded:", "is not redis://"),
        ("l2.url", "redis://", "invalid Redis URL: "),
        ("l2.url", "redis+cluster://a/1", "has only database 0"),
        ("l2.url", "redis+sentinel://a", "master-name"),
        ("l2.prefixes", "a,,b", "the prefix has 0 bytes; expected 1 to 1024"),
        ("l2.prefixes", "__terrace:bans", "reserved"),
        ("resp.password_file", "/does/not/exist", "cannot read /does/not/exist"),
    ] {
        let faults = from_flags(vec![flag(key, value)]).expect_err(value);
        let flag = key.replace(['.', '_'], "-");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(&format!("--{flag}: {key}: ")), "{}", faults[0]);
        assert!(faults[0].contains(part), "{} is to say {part:?}", faults[0]);
    }
}

#[test]
fn all_faults_of_all_sources_are_told_at_once_in_the_order_of_the_file() {
    let file =
        file("[l1]\nsizes = 1\nsize = \"3 parsecs\"\nmax_age = 30\n[foo]\nx = 1\n[data]\nsize = \"1KiB\"\nsync = 3\n");
    let faults = load(&Sources {
        file: Some(file.path.clone()),
        environment: vec![("TERRACE_SERVER_WORKERS".into(), "x".into())],
        flags: vec![flag("grpc.addr", "nope")],
        ..Sources::default()
    })
    .expect_err("faulty");
    let name = file.path.display().to_string();
    let faults: Vec<_> = faults.0.iter().map(|fault| fault.to_string().replace(&name, "FILE")).collect();
    let begins: Vec<_> = faults.iter().map(|fault| fault.split(" is ").next().unwrap_or_default()).collect();
    assert_eq!(begins[0], "FILE:2: unknown key l1.sizes; did you mean l1.size?");
    assert_eq!(begins[1], "FILE:3: l1.size: \"3 parsecs\"");
    assert_eq!(begins[2], "FILE:4: l1.max_age: 30");
    assert_eq!(begins[3], "FILE:6: unknown key foo.x");
    assert_eq!(begins[4], "FILE:8: data.size: 1KiB");
    assert_eq!(begins[5], "FILE:9: data.sync: 3");
    assert_eq!(begins[6], "TERRACE_SERVER_WORKERS: server.workers: \"x\"");
    assert!(begins[7].starts_with("--grpc-addr: grpc.addr: \"nope\" has no port"), "{faults:?}");
    assert_eq!(begins.len(), 8);
}

#[test]
fn toml_that_is_none_is_told_with_its_line() {
    let faults = faults_of("[l1]\nsize = \n[l2]\nurl = none\n");
    assert!(faults.iter().any(|fault| fault.starts_with("FILE:2: ")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("FILE:4: ")), "{faults:?}");
    assert!(faults_of("[l1]\nsize = 1048576\nsize = 1048576\n")[0].starts_with("FILE:3: "));
    assert!(faults_of("l1 = 3\n")[0].contains("unknown key l1"), "a section is a table");
    let missing = load(&Sources { file: Some("/does/not/exist.toml".into()), ..Sources::default() });
    assert!(missing.expect_err("no file").to_string().starts_with("/does/not/exist.toml: cannot read the file: "));
}

#[test]
fn unknown_variables_only_warn() {
    let environment = ["TERRACE_PORT", "TERRACE_SERVICE_HOST", "TERRACE_L1_SIZ"];
    let environment = environment.map(|name| (name.into(), "tcp://10.0.0.1:7400".into())).into();
    let loaded = load(&Sources { environment, ..Sources::default() }).expect("valid all the same");
    let told = "ignoring unknown environment variables: TERRACE_PORT, TERRACE_SERVICE_HOST, \
                TERRACE_L1_SIZ; did you mean TERRACE_L1_SIZE?";
    assert_eq!(loaded.warnings, [told]);
}

#[test]
fn policies_are_read_in_order_and_shown_with_their_lines() {
    let text = "[[policy]]\nmatch = \"session:*\"\ndefault_ttl = \"30m\"\nmax_ttl = \"24h\"\nmax_value = \"1MiB\"\n\
                l1 = false\n\n[[policy]]\nmatch = \"*\"\n";
    let loaded = from_file(text).expect("valid");
    let [session, all] = loaded.config.policies.as_slice() else { panic!("two policies") };
    assert!(session.matches.matches(b"session:1") && !session.matches.matches(b"user:1"));
    assert_eq!(session.default_ttl, Some(Duration::from_secs(1800)));
    assert_eq!(session.max_ttl, Some(Duration::from_secs(86_400)));
    assert_eq!(session.max_value, Some(1 << 20));
    assert!(!session.l1);
    assert!(all.l1 && all.default_ttl.is_none() && all.max_ttl.is_none() && all.max_value.is_none());
    assert_eq!(shown(&loaded, "policy[0].match").0, "\"session:*\"");
    assert!(shown(&loaded, "policy[0].max_ttl").1.ends_with("terrace.toml:4"));
    assert_eq!(shown(&loaded, "policy[1].default_ttl"), ("\"none\"", "default"));
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    for (text, fault) in [
        ("[[policy]]\nl1 = true\n", "FILE:1: policy: match is missing"),
        ("[[policy]]\nmatch = \"a*\"\nmax_tll = \"1h\"\n", "FILE:3: unknown policy key max_tll; did you mean max_ttl?"),
        ("[[policy]]\nmatch = \"a*\"\ndefault_ttl = \"0s\"\n", "FILE:3: policy.default_ttl: 0s is out of range"),
        ("[[policy]]\nmatch = \"a*\"\ndefault_ttl = 30\n", "FILE:3: policy.default_ttl: 30 is not a duration"),
        ("[[policy]]\nmatch = \"\"\n", "FILE:2: policy.match: \"\" is not a pattern"),
        ("[[policy]]\nmatch = \"a*\"\nfetch = \"auto\"\n", "FILE:3: unknown policy key fetch"),
        ("[[policy]]\nmatch = \"a*\"\nprefetch = \"yes\"\n", "FILE:3: policy.prefetch: "),
        (
            "[[policy]]\nmatch = \"a*\"\ndefault_ttl = \"2h\"\nmax_ttl = \"1h\"\n",
            "FILE:1: policy: default_ttl \"2h\" exceeds",
        ),
        ("[[policy]]\nmatch = \"a[b*\"\n", "FILE:2: policy.match: \"a[b*\": the class [ at byte 2 has no ]"),
        (
            "[[policy]]\nmatch = \"a*\"\nmax_ttl = \"1M\"\n",
            "FILE:3: policy.max_ttl: \"1M\" has the unit M, which is a month",
        ),
        ("[policy]\nmatch = \"a*\"\n", "FILE:1: policy is not an array of tables; expected [[policy]]"),
    ] {
        let faults = faults_of(text);
        assert!(faults[0].starts_with(fault), "{faults:?} is to begin with {fault}");
    }
    let long = format!("[[policy]]\nmatch = \"{}\"\n", "a".repeat(1025));
    assert!(faults_of(&long)[0].contains("1025 bytes; at most 1024"));
    let many = "[[policy]]\nmatch = \"a\"\n".repeat(257);
    assert_eq!(faults_of(&many), ["FILE:513: 257 policies are defined; expected at most 256"]);
}

#[test]
fn what_has_no_effect_is_told_with_its_line() {
    let warnings = |text: &str| {
        let file = file(text);
        let loaded = load(&Sources { file: Some(file.path.clone()), ..Sources::default() }).expect("valid");
        let name = file.path.display().to_string();
        loaded.warnings.iter().map(|warning| warning.replace(&name, "FILE")).collect::<Vec<_>>()
    };
    let policies = |patterns: &[&str]| {
        let policy = |pattern: &&str| format!("[[policy]]\nmatch = \"{pattern}\"\n");
        warnings(&patterns.iter().map(policy).collect::<String>())
    };
    assert_eq!(
        policies(&["user:*", "order:*", "user:*:cart", "order:*"]),
        [
            "FILE:5: the policy \"user:*:cart\" has no effect: the policy \"user:*\" at FILE:1 matches all of its keys",
            "FILE:7: the policy \"order:*\" has no effect: the policy \"order:*\" at FILE:3 has the same pattern",
        ]
    );
    assert!(policies(&["user:*:cart", "user:*", "*"]).is_empty(), "from special to general");
    assert_eq!(
        faults_of("[l1]\n[table2]\n[sever]\n"),
        ["FILE:2: unknown table [table2]", "FILE:3: unknown table [sever]; did you mean server?",]
    );
    assert!(faults_of("[grpc]\ntimeout = \"1M\"\n")[0].contains("has the unit M"));
    assert_eq!(show_and_read("36500d"), "\"36500d\"");
}

/// Returns the shown value of a policy TTL.
fn show_and_read(ttl: &str) -> String {
    let loaded = from_file(&format!("[[policy]]\nmatch = \"a*\"\nmax_ttl = \"{ttl}\"\n")).expect("valid");
    shown(&loaded, "policy[0].max_ttl").0.to_owned()
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    for (flags, part) in [
        (vec![flag("resp.addr", ":7401")], "--resp-addr: resp.addr: :7401 is not a loopback address"),
        (vec![flag("http.addr", "0.0.0.0:0")], "or server.expose = true (--expose) and auth.anonymous"),
        (vec![flag("http.addr", "cache.example.com:0")], "or server.expose = true (--expose) and auth.anonymous"),
        (vec![flag("http.addr", "[::]:0")], "or server.expose = true (--expose) and auth.anonymous"),
        (
            vec![flag("http.addr", "0.0.0.0:7402"), flag("server.expose", "true")],
            "http.addr: 0.0.0.0:7402 is reachable by others and auth.anonymous is not set; set auth.file, or \
             auth.anonymous = \"none\" | \"scraper\" | \"reader\" | \"admin\"",
        ),
        (
            vec![flag("resp.addr", "127.0.0.1:7400")],
            "resp.addr: 127.0.0.1:7400 and grpc.addr: 127.0.0.1:7400 use the same port",
        ),
        (
            vec![flag("resp.addr", ":7400"), flag("server.expose", "true"), flag("auth.anonymous", "admin")],
            "use the same port",
        ),
        (vec![flag("server.max_value", "16MiB")], "do not fit in grpc.max_message 16MiB"),
        (vec![flag("grpc.max_message", "1GiB")], "grpc.max_message 1GiB exceeds server.max_in_flight 256MiB"),
    ] {
        let faults = from_flags(flags).expect_err(part);
        assert!(faults.len() == 1 && faults[0].contains(part), "{faults:?} is to say {part:?}");
    }
    for fine in ["127.0.0.1:0", "[::1]:0", "localhost:0", "127.8.8.8:0"] {
        from_flags(vec![flag("grpc.addr", fine)]).expect(fine);
    }
    let exposed = vec![flag("grpc.addr", ":0"), flag("server.expose", "true"), flag("auth.anonymous", "none")];
    from_flags(exposed).expect("decided");
}

#[test]
fn secrets_are_shown_nowhere() {
    let url = "redis://service:hunter2@localhost:6379/3";
    let loaded = from_flags(vec![flag("l2.url", url)]).expect("valid");
    assert_eq!(loaded.config.l2.url.expose(), url);
    assert_eq!(shown(&loaded, "l2.url").0, "\"redis://service:***@localhost:6379/3\"");
    assert!(!format!("{:?}", loaded.config).contains("hunter2"));
    let wrong = "redis://service:hunter2@localhost:nope | redis://service:hunter2@a?x=1 | what://a:hunter2@b | \
                 redis:service:hunter2@host | redis:/:hunter2@host | redis+sentinel:h/m?sentinel_pass=hunter2 | redis://hunter2@h";
    for wrong in wrong.split(" | ") {
        let faults = from_flags(vec![flag("l2.url", wrong)]).expect_err(wrong);
        assert!(!faults[0].contains("hunter2"), "{}", faults[0]);
    }
    // A flag is in the process list; a variable and a file are not.
    let warned = "--l2-url: the URL contains a password, which every user of this machine can read in the process list";
    assert!(loaded.warnings[0].starts_with(warned), "{:?}", loaded.warnings);
    let environment = vec![("TERRACE_L2_URL".to_owned(), url.to_owned())];
    let loaded = load(&Sources { environment, ..Sources::default() }).expect("valid");
    assert!(loaded.warnings.is_empty() && shown(&loaded, "l2.url").0.contains(":***@"));
}

#[test]
fn the_password_is_the_first_line_of_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("password");
    let password = |text: &[u8]| {
        fs::write(&path, text).expect("written");
        let loaded = from_flags(vec![flag("resp.password_file", path.to_str().expect("UTF-8"))]);
        loaded.map(|loaded| loaded.config.resp.password().expect("readable").expect("there").expose().clone())
    };
    assert_eq!(password(b"hunter2\r\nnotes\n").expect("valid"), b"hunter2");
    assert_eq!(password(b"no newline").expect("valid"), b"no newline");
    assert_eq!(password(&[b'x'; 1024]).expect("valid").len(), 1024);
    for wrong in [&b""[..], b"\nhunter2\n", &[b'x'; 1025], &[b'x'; 5000]] {
        assert!(password(wrong).expect_err("refused")[0].contains("expected a password of 1 to 1024 bytes"));
    }
}

#[test]
fn a_reload_takes_over_what_may_change_and_names_the_rest() {
    let running = from_flags(vec![flag("l1.size", "1GiB"), flag("grpc.timeout", "1s")]).expect("valid");
    let fresh =
        from_file("[l1]\nsize = \"2GiB\"\n[grpc]\ntimeout = \"2s\"\n[[policy]]\nmatch = \"a*\"\n").expect("valid");
    let (effective, restart) = config::reload(&running, fresh);
    assert_eq!(restart, ["l1.size"]);
    // The same text is shown for both, because a password is masked.
    let url = |password: &str| from_flags(vec![flag("l2.url", &format!("redis://:{password}@h"))]).expect("valid");
    assert_eq!(config::reload(&url("one"), url("two")).1, ["l2.url"]);
    assert_eq!(effective.config.l1.size, 1 << 30);
    assert_eq!(shown(&effective, "l1.size"), ("\"1GiB\"", "flag --l1-size"));
    assert_eq!(effective.config.grpc.timeout, Duration::from_secs(2));
    assert!(shown(&effective, "grpc.timeout").1.starts_with("file "));
    assert_eq!(effective.config.policies.len(), 1);
}

#[test]
fn deadlines_of_redis_are_reported_where_they_are_ignored() {
    let load_with = |url: &str| {
        let variables = [("TERRACE_L2_READ_TIMEOUT".to_owned(), "75ms".to_owned())];
        let flags = vec![flag("l2.url", url), flag("l2.write_timeout", "1s")];
        load(&Sources { file: None, default_file: None, environment: variables.into(), flags }).expect("valid").warnings
    };
    for url in ["embedded", "embedded:/tmp/elsewhere"] {
        assert_eq!(
            load_with(url),
            [
                "l2.read_timeout (env TERRACE_L2_READ_TIMEOUT) applies to Redis and is ignored with the embedded store; \
                 set data.read_timeout instead",
                "l2.write_timeout (flag --l2-write-timeout) applies to Redis and is ignored with the embedded store; \
                 set data.write_timeout instead",
            ]
        );
    }
    assert_eq!(load_with("redis://127.0.0.1:6379"), [""; 0]);
}
