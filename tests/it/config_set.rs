//! CONFIG SET and CONFIG GET of Terrace's settings: what a client may change, and what no client sees.

use std::{fs, process::Command};

use redis::Commands;
use rustix::process::Signal;
use terrace::{
    clock::Clock,
    config::{Given, Sources, load},
    grpc::client::AdminClient,
    proto::GetConfigRequest,
    server::Server,
};

use crate::support::{
    command::terrace,
    eventually,
    grpc::{block_on, connect},
    process::Process,
    redis::RedisServer,
    resp::{ask, connection},
    terrace::Terrace,
};

/// A server with a configuration from flags, as `terrace serve` has.
fn start_with(flags: &[(&'static str, &str)]) -> Terrace {
    let given =
        |(key, value): &(&'static str, &str)| Given { key, flag: (*key).to_owned(), value: (*value).to_owned() };
    let any = ["grpc.addr", "resp.addr", "http.addr"].map(|key| (key, "127.0.0.1:0"));
    let flags = any.iter().chain(flags).map(given).collect();
    let loaded = load(&Sources { flags, ..Sources::default() }).unwrap();
    Terrace::run(Server::bind(loaded.config, loaded.settings, Clock::real()).unwrap())
}

#[test]
fn the_current_value_can_always_be_set() {
    let terrace = start_with(&[("l2.url", "none"), ("l1.size", "256MiB")]);
    for current in [
        "appendonly no",
        "appendonly NO",
        "save ''",
        "databases 3",
        "timeout 0",
        "maxmemory 268435456",
        "maxmemory 256mb",
        "maxclients 10000",
        "proto-max-bulk-len 8mb",
        "protected-mode yes",
        "resp.protected_mode true",
        "resp.protected_configs no",
        "resp.password_file none",
        "resp.flush auto",
        "l1.size 262144KiB",
        "l2.url none",
        "save '' l2.read_timeout 75ms",
    ] {
        assert_eq!(ask(&terrace, &format!("CONFIG SET {current}")), "+OK\r\n+OK\r\n", "{current}");
    }
    assert!(ask(&terrace, "CONFIG GET l2.read_timeout").contains("75ms"), "the other parameter is set");
    assert!(ask(&terrace, "CONFIG SET appendonly yes").contains("can't set immutable config"));
    assert!(ask(&terrace, "CONFIG SET maxmemory 1").contains("changing l1.size requires a restart"));
    let size = ask(&terrace, "CONFIG SET proto-max-bulk-len 4mb | CONFIG GET server.max_value");
    assert!(size.contains("4MiB"), "a unit of Redis is binary: {size}");
}

#[test]
fn protected_settings_need_permission() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "hunter2").unwrap();
    let file = file.to_str().unwrap();
    let changes = [
        format!("resp.password_file {file}"),
        "resp.protected_mode false".to_owned(),
        "protected-mode no".to_owned(),
        "resp.flush allow".to_owned(),
    ];
    let closed = start_with(&[("l2.url", "none")]);
    for change in &changes {
        let reply = ask(&closed, &format!("CONFIG SET {change} | PING"));
        assert!(reply.contains("can't set a protected setting; resp.protected_configs permits it"), "{reply}");
        assert!(reply.contains("+PONG"), "nobody is locked out: {reply}");
    }
    let reply = ask(&closed, "CONFIG SET resp.protected_configs yes");
    assert!(reply.contains("requires a restart"), "{reply}");
    for permitted in ["local", "yes"] {
        let open = start_with(&[("l2.url", "none"), ("resp.protected_configs", permitted)]);
        for change in changes.iter().rev() {
            assert!(ask(&open, &format!("CONFIG SET {change}")).starts_with("+OK\r\n"), "{change}");
        }
        assert!(ask(&open, "PING").starts_with("-NOAUTH"), "the password applies");
    }
}

#[test]
fn only_known_parameters_reach_redis() {
    let redis = RedisServer::start();
    let terrace = start_with(&[("l2.url", &redis.url())]);
    eventually("L2 answers", || ask(&terrace, "DBSIZE").starts_with(':'));
    let of_redis = |name: &str| {
        let found: Vec<String> = redis::cmd("CONFIG").arg("GET").arg(name).query(&mut redis.connect()).unwrap();
        found[1].clone()
    };
    for (name, value) in [
        ("hash-max-listpack-entries", "77"),
        ("list-max-listpack-size", "-1"),
        ("set-max-intset-entries", "7"),
        ("lua-time-limit", "1234"),
        ("busy-reply-threshold", "4321"),
    ] {
        let reply = ask(&terrace, &format!("CONFIG SET {name} {value} | CONFIG GET {name}"));
        assert!(reply.starts_with("+OK\r\n*2\r\n") && reply.contains(&format!("\r\n{value}\r\n")), "{name}: {reply}");
        assert_eq!(of_redis(name), value);
    }
    for (name, value) in
        [("maxmemory", "123456"), ("requirepass", "x"), ("dir", "/tmp"), ("hz", "50"), ("my-max-listpack-x", "1")]
    {
        let before = (name != "my-max-listpack-x").then(|| of_redis(name));
        assert!(ask(&terrace, &format!("CONFIG SET {name} {value}")).starts_with("-ERR "), "{name}");
        assert_eq!(before, (name != "my-max-listpack-x").then(|| of_redis(name)), "{name}");
    }
    let alone = start_with(&[("l2.url", "none")]);
    assert!(ask(&alone, "CONFIG SET lua-time-limit 1").contains("requires Redis as L2"));
}

#[test]
fn no_port_and_no_command_shows_a_password() {
    let urls = "redis://user:hunter2@127.0.0.1:1 | redis://:hunter2%40hunter2@127.0.0.1:1 | redis://:hunter2@hunter2@127.0.0.1:1 | \
                redis+unix:///none?pass=hunter2 | redis+sentinel://127.0.0.1:1/m?sentinel_pass=hunter2@hunter2 | \
                redis+sentinel://:hunter2@127.0.0.1:1/m?sentinel_user=u&sentinel_pass=hunter2 | redis+cluster://u:hunter2@127.0.0.1:1";
    for url in urls.split(" | ") {
        let server = start_with(&[("l2.url", url)]);
        let mut client = connection(server.resp());
        let info: String = redis::cmd("INFO").arg("everything").query(&mut client).unwrap();
        let get: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("*").query(&mut client).unwrap();
        let _missing: redis::RedisResult<Option<String>> = client.get("k");
        let config = block_on(async {
            let mut admin = AdminClient::new(connect(server.grpc()).await);
            admin.get_config(GetConfigRequest {}).await.unwrap().into_inner()
        });
        let printed = terrace(&["config"]).env("TERRACE_L2_URL", url).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        for shown in [info, format!("{get:?}"), format!("{config:?}"), printed] {
            assert!(!shown.contains("hunter2"), "{url}: {shown}");
        }
        assert!(format!("{get:?}").contains("***"), "{get:?}");
        // Neither the masked nor the right URL is a change; but a guess gets no answer.
        let shown = get.iter().skip_while(|name| *name != "l2.url").nth(1).unwrap();
        let set =
            |value: &str| redis::cmd("CONFIG").arg("SET").arg("l2.url").arg(value).exec(&mut connection(server.resp()));
        set(shown).unwrap();
        assert!(set(url).unwrap_err().to_string().contains("requires a restart"));
    }
}

#[test]
fn a_file_that_blocks_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (data, fifo) = (folder.path().join("data"), folder.path().join("fifo"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let file = folder.path().join("terrace.toml");
    fs::write(&file, "[resp]\nprotected_configs = \"local\"\n").unwrap();
    let server = Process::start(&data, &["--l2", "none", "--config", file.to_str().unwrap()]);
    for path in ["/dev/ptmx", fifo.to_str().unwrap()] {
        let mut client = connection(&server.resp);
        let error = redis::cmd("CONFIG").arg("SET").arg("resp.password_file").arg(path).exec(&mut client).unwrap_err();
        assert!(error.to_string().contains("it is not a regular file"), "{error}");
    }
    // The configuration itself becomes a FIFO that nobody writes to.
    fs::rename(&fifo, &file).unwrap();
    server.signal(Signal::HUP);
    eventually("the reload is refused", || server.log().contains("keeping the current one"));
    assert!(server.log().contains("no end of the file within 2 s"), "{}", server.log());
    server.stop();
}

#[test]
fn new_files_belong_to_the_user_of_the_server() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (fresh, open) = (folder.path().join("fresh"), folder.path().join("open"));
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    for (data, warns) in [(&fresh, false), (&open, true)] {
        let server = Process::start(data, &["--l2", "embedded"]);
        if warns {
            eventually("the folder is named", || server.log().contains("other users can read"));
        }
        let mut client = connection(&server.resp);
        client.set::<_, _, ()>("k", "v").unwrap();
        server.stop();
        let mut folders = vec![data.clone()];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let (path, mode) =
                    entry.map(|entry| (entry.path(), entry.metadata().unwrap().permissions().mode())).unwrap();
                assert_eq!(mode & 0o077, 0, "{}", path.display());
                seen += 1;
                folders.extend(path.is_dir().then_some(path));
            }
        }
        assert!(seen > 3, "{seen} files");
    }
    assert_eq!(fs::metadata(&fresh).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&open).unwrap().permissions().mode() & 0o777, 0o755, "an existing folder stays");
}
