//! Secrets: passwords from files, their rotation, credentials of systemd; and no output that shows a secret.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use redis::{Commands, Connection};
use rustix::process::Signal;
use terrace::{
    access::SecretHash,
    config::{Given, Sources, load},
    proto::{GetConfigRequest, admin_client::AdminClient},
};
use tonic::Request;

use crate::support::{
    command::{Killed, printed, terrace},
    eventually,
    grpc::{block_on, connect},
    http::exchange,
    process::Process,
    redis::RedisServer,
    resp::{Client, connection, converse, request},
    sentinel::Sentinels,
    terrace::{Terrace, config_patient},
};

/// A folder with files of secrets.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Runs a command of words on an open connection.
fn tell(client: &mut Connection, command: &str) {
    let mut words = command.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command.exec(client).unwrap();
}

/// Names of the connections of Redis, without the one that asks.
fn names(admin: &mut Connection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(admin).unwrap();
    let names = list.lines().filter_map(|line| line.split(' ').find_map(|field| field.strip_prefix("name=")));
    names.filter(|name| name.starts_with("terrace")).map(str::to_owned).collect()
}

/// Numbers of the connections of the node.
fn ids(admin: &mut Connection) -> BTreeSet<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(admin).unwrap();
    let of_node = list.lines().filter(|line| line.contains("name=terrace"));
    of_node.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Waits until the node has its link and its data connections, and reads through them.
fn wait_until_connected(node: &Terrace, admin: &mut Connection) {
    eventually("the node has a link and data connections", || {
        let names = names(admin);
        names.iter().any(|name| name == "terrace") && names.iter().any(|name| name == "terrace-invalidation")
    });
    let mut client = connection(node.resp());
    eventually("L2 answers", || client.set::<_, _, ()>("k", "v").is_ok());
}

#[test]
fn new_connections_use_the_password_of_a_changed_file() {
    for user in [None, Some("terrace")] {
        let redis = RedisServer::start();
        // Stays authenticated.
        let mut admin = redis.connect();
        let set_password = |admin: &mut Connection, password: &str| match user {
            None => tell(admin, &format!("CONFIG SET requirepass {password}")),
            Some(user) => tell(admin, &format!("ACL SETUSER {user} on resetpass >{password} ~* &* +@all")),
        };
        let folder = Folder::new();
        folder.write("password", "one\n");
        set_password(&mut admin, "one");
        let mut config = config_patient(redis.url());
        config.l2.user = user.map(str::to_owned);
        config.l2.password_file = Some(folder.path("password"));
        let node = Terrace::start(config);
        wait_until_connected(&node, &mut admin);
        for password in ["second", "3"] {
            folder.write("password", password);
            set_password(&mut admin, password);
            let mut client = connection(node.resp());
            let before = ids(&mut admin);
            // A connection that was killed in the previous round may still be in use for one request.
            eventually("a key is written", || client.set::<_, _, ()>("k", password).is_ok());
            let after = ids(&mut admin);
            assert!(!before.is_empty() && before.is_subset(&after), "connections ended: {before:?}, {after:?}");
            tell(&mut admin, "CLIENT KILL TYPE normal SKIPME yes");
            wait_until_connected(&node, &mut admin);
            // Pass-through connections log in, too.
            eventually("a list is written", || {
                redis::cmd("LPUSH").arg("list").arg("a").query::<u64>(&mut client).is_ok()
            });
        }
    }
}

#[test]
fn sentinels_have_a_user_and_a_password_of_their_own() {
    for user in [None, Some("terrace")] {
        log_in_to_sentinels(user);
    }
}

fn log_in_to_sentinels(user: Option<&str>) {
    let world = Sentinels::start();
    let clients: Vec<_> = world.sentinel_urls().iter().map(|url| redis::Client::open(&url[..]).unwrap()).collect();
    let mut admins: Vec<_> = clients.iter().map(|client| client.get_connection().unwrap()).collect();
    let folder = Folder::new();
    let mut rotate = |password: &str| {
        folder.write("sentinel", password);
        for admin in &mut admins {
            if let Some(user) = user {
                tell(admin, &format!("ACL SETUSER {user} on resetpass >{password} &* +@all"));
            }
            tell(admin, &format!("ACL SETUSER default resetpass >{password}{}", user.unwrap_or_default()));
            tell(admin, "CLIENT KILL TYPE normal SKIPME yes");
        }
    };
    rotate("one");
    let mut config = config_patient(world.url());
    config.l2.sentinel_user = user.map(str::to_owned);
    config.l2.sentinel_password_file = Some(folder.path("sentinel"));
    let node = Terrace::start(config);
    let mut client = connection(node.resp());
    eventually("the primary is found", || client.set::<_, _, ()>("k", "v").is_ok());
    rotate("second");
    let refused = clients[0].get_connection().and_then(|mut client| redis::cmd("PING").exec(&mut client));
    assert!(refused.is_err(), "the Sentinels require the password");
    let password = format!("//:second{}@", user.unwrap_or_default());
    let with_password = redis::Client::open(world.sentinel_urls()[0].replace("//", &password)).unwrap();
    let mut admin = with_password.get_connection().unwrap();
    eventually("the node has logged in to a Sentinel again", || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut admin).unwrap();
        let user = format!("user={} ", user.unwrap_or("default"));
        list.lines().any(|line| line.contains("cmd=sentinel|master") && line.contains(&user))
    });
}

fn given(key: &'static str, value: &str) -> Given {
    Given { key, flag: key.replace(['.', '_'], "-"), value: value.to_owned() }
}

/// Loads a configuration with `l2.url` from the environment and these flags. Returns the warnings, or the faults.
fn load_with(url: &str, flags: &[(&'static str, &str)]) -> Result<Vec<String>, String> {
    let environment = vec![("TERRACE_L2_URL".to_owned(), url.to_owned())];
    let flags = flags.iter().map(|(key, value)| given(key, value)).collect();
    let sources = Sources { environment, flags, ..Sources::default() };
    load(&sources).map(|loaded| loaded.warnings).map_err(|faults| faults.to_string())
}

#[test]
fn a_login_in_two_places_is_a_fault_that_names_both() {
    let folder = Folder::new();
    let file = folder.write("password", "hunter2");
    let (with_login, with_sentinel_login) = ("redis://:hunter2@h", "redis+sentinel://h/m?sentinel_pass=hunter2");
    for (url, flags, key) in [
        (with_login, vec![("l2.password_file", &file[..])], "l2.password_file"),
        (with_login, vec![("l2.user", "u")], "l2.user"),
        (with_sentinel_login, vec![("l2.sentinel_password_file", &file[..])], "l2.sentinel_password_file"),
        (with_sentinel_login, vec![("l2.sentinel_user", "u")], "l2.sentinel_user"),
    ] {
        let flag = key.replace(['.', '_'], "-");
        let expected =
            format!("--{flag}: {key} and the login in l2.url (TERRACE_L2_URL) are both set; remove one of them");
        assert_eq!(load_with(url, &flags), Err(expected));
    }
    // The two logins are independent.
    assert_eq!(load_with(with_sentinel_login, &[("l2.password_file", &file)]), Ok(vec![]));
    let both = [("l2.user", "u"), ("l2.password_file", &file[..])];
    assert_eq!(load_with("redis://h", &both), Ok(vec![]));
    let alone = load_with("redis://h", &both[..1]);
    assert_eq!(alone, Err("--l2-user: l2.user needs a password; set l2.password_file".to_owned()));
    let alone = load_with("redis+sentinel://h/m", &[("l2.sentinel_user", "u")]);
    let expected = "--l2-sentinel-user: l2.sentinel_user needs a password; set l2.sentinel_password_file";
    assert_eq!(alone, Err(expected.to_owned()));
}

#[test]
fn a_login_that_nothing_uses_is_reported() {
    let unused = |key: &str, store: &str| {
        let flag = key.replace(['.', '_'], "-");
        format!("{key} (flag --{flag}) applies to {store} and is ignored with this l2.url")
    };
    let flags = [
        ("l2.user", "u"),
        ("l2.password_file", "/none"),
        ("l2.sentinel_user", "u"),
        ("l2.sentinel_password_file", "/none"),
    ];
    let sentinel = [unused("l2.sentinel_user", "Sentinel"), unused("l2.sentinel_password_file", "Sentinel")];
    for url in ["embedded", "none"] {
        let warnings = load_with(url, &flags).unwrap();
        let expected = [unused("l2.user", "Redis"), unused("l2.password_file", "Redis")];
        assert_eq!(warnings[..2], expected);
        assert_eq!(warnings[2..], sentinel);
    }
    assert_eq!(load_with("redis://h", &flags[2..]), Ok(sentinel.to_vec()));
}

/// Runs `terrace config` with this directory of credentials.
fn config_with(directory: Option<&Path>, args: &[&str]) -> Output {
    let mut command = terrace(&[&["config", "--l2", "redis://h"], args].concat());
    command.env_remove("CREDENTIALS_DIRECTORY");
    if let Some(directory) = directory {
        command.env("CREDENTIALS_DIRECTORY", directory);
    }
    command.output().unwrap()
}

#[test]
fn a_credential_of_systemd_is_a_file_of_its_directory() {
    let folder = Folder::new();
    folder.write("redis", "canary");
    folder.write("resp", "canary");
    folder.write("users", "[[user]]\nname = \"u\"\nroles = [\"reader\"]\n");
    let directory = folder.0.path();
    let files = ["--l2-password-file", "cred:redis", "--resp-password-file", "cred:resp"];
    let found = config_with(Some(directory), &files);
    let text = printed(&found);
    assert!(found.status.success(), "{text}");
    assert!(text.contains("\"cred:redis\"") && text.contains("\"cred:resp\""), "{text}");
    assert!(!text.contains(directory.to_str().unwrap()) && !text.contains("canary"), "{text}");
    let users = config_with(Some(directory), &["--auth-file", "cred:users", "--l2-tls-ca-file", "cred:ca"]);
    assert!(users.status.success(), "{}", printed(&users));
    for (directory, name, expected) in [
        (None, "cred:redis", "cred:redis needs the variable CREDENTIALS_DIRECTORY"),
        (Some(directory), "cred:../redis", "invalid credential name \"../redis\"; expected the name of a file"),
        (Some(directory), "cred:", "invalid credential name \"\""),
        (Some(directory), "cred:none", "No such file"),
    ] {
        for key in ["l2", "resp"] {
            let refused = config_with(directory, &[&format!("--{key}-password-file"), name]);
            let text = printed(&refused);
            assert_eq!(refused.status.code(), Some(64), "{text}");
            assert!(text.contains(&format!("{key}.password_file: ")) && text.contains(expected), "{text}");
        }
    }
}

#[test]
fn a_password_file_that_cannot_be_read_prevents_the_start() {
    let folder = Folder::new();
    let missing = folder.path("missing").to_str().unwrap().to_owned();
    let empty = folder.write("empty", "\nhunter2\n");
    for (path, why) in [(&missing, "No such file"), (&empty, "is empty; expected a password of 1 to 8192 bytes")] {
        let args = ["serve", "--l2", "redis://h", "--grpc", "127.0.0.1:0", "--l2-password-file", path];
        let mut refused = Killed(terrace(&args).stderr(Stdio::piped()).spawn().unwrap());
        eventually("the server ends", || refused.0.try_wait().unwrap().is_some());
        let mut text = String::new();
        refused.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(refused.0.wait().unwrap().code(), Some(64), "{text}");
        assert!(text.contains("l2.password_file: ") && text.contains(path) && text.contains(why), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    // The server reads the files, too.
    let mut config = config_patient("redis://h");
    config.l2.password_file = Some(missing.into());
    let refused = terrace::server::Server::bind(config, Vec::new(), terrace::clock::Clock::real());
    assert!(refused.is_err_and(|error| error.to_string().contains("l2.password_file: cannot read")));
}

/// A part of each secret of the tests below.
const CANARY: &str = "canary";

/// Outputs that must not show a secret.
#[derive(Default)]
struct Outputs(Vec<(String, String)>);

impl Outputs {
    fn add(&mut self, name: &str, text: impl Into<String>) {
        let text = text.into();
        assert!(!text.is_empty(), "{name} has no output");
        self.0.push((name.to_owned(), text));
    }

    fn check(&self) {
        for (name, text) in &self.0 {
            assert!(!text.to_lowercase().contains(CANARY), "{name} shows a secret: {text}");
        }
    }

    /// Collects what the RESP port shows.
    fn add_resp(&mut self, server: &Process, login: &str) {
        let wrong = ["AUTH wrong-canary", "AUTH default wrong-canary", "HELLO 3 AUTH x wrong-canary", "GET k"];
        for command in wrong {
            self.add(command, talk(server, &[command]));
        }
        let commands = [
            "CONFIG SET slowlog-log-slower-than 0",
            login,
            "GET k",
            "CONFIG GET *",
            "INFO everything",
            "CLIENT LIST",
            "CLIENT INFO",
            "COMMAND LIST",
            "ACL WHOAMI",
            "CONFIG SET l2.url redis://:guess@h",
            "CONFIG SET l2.password_file /none",
            "SLOWLOG GET 128",
        ];
        let replies = talk(server, &[&[login], &commands[..]].concat());
        for expected in ["l2.password_file", "redis_version", "cmd=client", "requires a restart"] {
            assert!(replies.to_lowercase().contains(expected), "{expected} is missing: {replies}");
        }
        self.add("RESP", replies);
    }

    /// Collects what the HTTP port shows.
    fn add_http(&mut self, server: &Process, token: &str) {
        let paths = ["/", "/metrics", "/readyz", "/api/stats", "/api/history", "/api/top", "/api/learned"];
        for (token, expected) in attempts(token, " 200 ", " 401 ") {
            let header = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
            for path in paths {
                let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n");
                let answer = exchange(&server.http, text.as_bytes());
                let is_open = path == "/readyz";
                assert!(is_open || answer.lines().next().unwrap().contains(expected), "{path}: {answer}");
                self.add(path, answer);
            }
        }
    }

    /// Collects the effective configuration and the errors of the gRPC port.
    fn add_grpc(&mut self, server: &Process, token: &str) {
        for (token, is_accepted) in attempts(token, true, false) {
            let mut request = Request::new(GetConfigRequest {});
            if !token.is_empty() {
                request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            let shown = block_on(async { AdminClient::new(connect(&server.grpc).await).get_config(request).await });
            assert_eq!(shown.is_ok(), is_accepted, "{shown:?}");
            self.add("GetConfig", format!("{shown:?}"));
        }
    }

    /// Reloads the configuration, and collects the process list.
    fn add_process(&mut self, server: &Process) {
        server.signal(Signal::HUP);
        eventually("the configuration is reloaded", || server.log().contains("configuration reloaded"));
        let arguments = fs::read(format!("/proc/{}/cmdline", server.id())).unwrap();
        self.add("the process list", String::from_utf8(arguments).unwrap());
    }
}

/// A token and a wrong one with their results. Without users, a server ignores tokens.
fn attempts<T>(token: &str, accepted: T, refused: T) -> Vec<(&str, T)> {
    let mut attempts = vec![(token, accepted), ("wrong-canary", refused)];
    attempts.truncate(if token.is_empty() { 1 } else { 2 });
    attempts
}

/// Sends commands and returns all replies.
fn talk(server: &Process, commands: &[&str]) -> String {
    let bytes: Vec<u8> = commands.iter().chain(&["QUIT"]).flat_map(|command| request(command)).collect();
    String::from_utf8_lossy(&converse(&server.resp, &bytes)).into_owned()
}

#[test]
fn no_output_shows_a_password_of_a_file() {
    let redis = RedisServer::start();
    let mut admin = redis.connect();
    tell(&mut admin, "ACL SETUSER terrace on >canary-redis ~* &* +@all");
    let folder = Folder::new();
    folder.write("redis", "canary-redis\n");
    let resp = folder.write("resp", "canary-resp\n");
    let url = redis.url();
    let args = ["--l2", &url, "--l2-user", "terrace", "--l2-password-file", "cred:redis"];
    let args = [&args[..], &["--resp-password-file", &resp, "--server-log", "debug"]].concat();
    let environment = [("CREDENTIALS_DIRECTORY", folder.0.path().to_str().unwrap())];
    let data = folder.path("data");
    let server = Process::start_with(&data, &args, &environment);
    let mut outputs = Outputs::default();
    outputs.add(
        "terrace config",
        printed(&terrace(&[&["config"], &args[..]].concat()).envs(environment).output().unwrap()),
    );

    let mut monitor = Client::connect_to(&server.resp[..]);
    monitor.ask("AUTH canary-resp", "+OK\r\n");
    monitor.ask("MONITOR", "+OK\r\n");
    outputs.add_resp(&server, "AUTH canary-resp");
    outputs.add_http(&server, "");
    outputs.add_grpc(&server, "");
    outputs.add_process(&server);

    // Redis refuses the password.
    tell(&mut admin, "ACL SETUSER terrace resetpass >another");
    tell(&mut admin, "CLIENT KILL USER terrace");
    eventually("Redis refuses the login", || talk(&server, &["AUTH canary-resp", "GET k"]).contains("WRONGPASS"));
    outputs.add("GET", talk(&server, &["AUTH canary-resp", "GET k", "SET k v", "LPUSH l a", "INFO everything"]));
    // Faulty files.
    folder.write("redis", "\ncanary-redis\n");
    eventually("the file is rejected", || server.log().contains("rejected a changed password file of L2"));
    folder.write("resp", "\ncanary-resp\n");
    server.signal(Signal::HUP);
    eventually("the reload is rejected", || server.log().contains("rejected new configuration"));

    server.signal(Signal::TERM);
    let seen = monitor.drain();
    assert!(seen.contains("\"GET\" \"k\""), "{seen}");
    outputs.add("MONITOR", seen);
    for expected in ["DEBUG", "failed login", "WRONGPASS"] {
        assert!(server.log().contains(expected), "{expected} is not in the log: {}", server.log());
    }
    outputs.add("the log", server.log());
    outputs.check();
}

#[test]
fn no_output_shows_a_password_of_the_url_or_a_token() {
    let redis = RedisServer::start();
    let mut admin = redis.connect();
    tell(&mut admin, "ACL SETUSER terrace on >canary-redis ~* &* +@all");
    let folder = Folder::new();
    let hash = SecretHash::of(b"canary-token").to_text();
    let users =
        folder.write("users.toml", &format!("[[user]]\nname = \"root\"\nroles = [\"admin\"]\nsecrets = [{hash:?}]\n"));
    let url = redis.url().replace("//", "//terrace:canary%2Dredis@");
    let file = folder
        .write("terrace.toml", &format!("[l2]\nurl = {url:?}\n[auth]\nfile = {users:?}\n[server]\nlog = \"debug\"\n"));
    let data = folder.path("data");
    let server = Process::start(&data, &["--config", &file]);
    let mut outputs = Outputs::default();
    outputs.add("terrace config", printed(&terrace(&["config", "--config", &file]).output().unwrap()));

    let mut monitor = Client::connect_to(&server.resp[..]);
    monitor.ask("AUTH root canary-token", "+OK\r\n");
    monitor.ask("MONITOR", "+OK\r\n");
    outputs.add_resp(&server, "AUTH root canary-token");
    outputs.add_http(&server, "canary-token");
    outputs.add_grpc(&server, "canary-token");
    outputs.add_process(&server);
    tell(&mut admin, "ACL SETUSER terrace resetpass >another");
    tell(&mut admin, "CLIENT KILL USER terrace");
    eventually("Redis refuses the login", || talk(&server, &["AUTH canary-token", "GET k"]).contains("WRONGPASS"));
    // A token in place of its hash is a fault.
    folder.write("users.toml", "[[user]]\nname = \"root\"\nroles = [\"admin\"]\nsecrets = [\"canary-token\"]\n");
    eventually("the file is rejected", || server.log().contains("rejected the users file"));

    server.signal(Signal::TERM);
    let seen = monitor.drain();
    assert!(seen.contains("\"GET\" \"k\""), "{seen}");
    outputs.add("MONITOR", seen);
    assert!(server.log().contains("DEBUG") && server.log().contains("failed login"), "{}", server.log());
    outputs.add("the log", server.log());
    outputs.check();
}
