//! The command line: exit codes, output, signals.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

use rustix::process::Signal;

use crate::support::{command, eventually, process::Process, redis::RedisServer};

fn terrace(args: &[&str]) -> Output {
    command::terrace(args).stdin(Stdio::null()).output().expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// `serve` on free ports, without an L2.
fn serve(args: &[&str]) -> Output {
    let mut all =
        vec!["serve", "--l2", "none", "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"];
    all.extend(args);
    terrace(&all)
}

#[test]
fn a_faulty_configuration_is_exit_code_64_and_names_all_faults_before_a_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = serve(&["--resp", &address, "--l1-size", "big", "--server-workers=-1"]);
    assert_eq!(output.status.code(), Some(64));
    let told = stderr(&output);
    assert!(told.contains("--l1-size: l1.size: \"big\" is not a size"), "{told}");
    assert!(told.contains("--server-workers: server.workers: \"-1\" is not a whole number"), "{told}");
    assert!(!told.contains(&address), "no port was tried: {told}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn an_unknown_flag_is_exit_code_64_and_help_is_0() {
    let output = terrace(&["serve", "--l1-sise", "1GiB"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("--l1-size"), "{}", stderr(&output));
    let help = terrace(&["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = stdout(&help).split_whitespace().collect::<Vec<_>>().join(" ");
    for row in terrace::config::Row::all() {
        assert!(help.contains(&format!("[env: {}]", row.variable())), "{} is in the help", row.key);
        assert!(
            help.contains(&format!("--{} ", row.flag())) || row.short_flag().is_some(),
            "{} is in the help",
            row.key
        );
    }
    assert!(help.contains("--l1-size <SIZE> Maximum weight in bytes of all L1 entries"));
    assert!(help.contains("(size, 64KiB to 16TiB) [default: 256MiB] [env: TERRACE_L1_SIZE]"));
}

#[test]
fn serve_suggests_what_to_try_next_on_a_terminal_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = env!("CARGO_BIN_EXE_terrace");
    // `script` gives it a terminal. The shell prints its process id, which `exec` keeps.
    let command = format!(
        "echo $$; exec '{binary}' serve --l2 none --grpc 127.0.0.1:0 --resp 127.0.0.1:0 --http 127.0.0.1:0 \
         --data-dir '{}' 2>/dev/null",
        folder.path().display()
    );
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux runs");
    let output = BufReader::new(script.stdout.take().expect("piped"));
    let mut lines = output.lines().map(|line| line.expect("UTF-8").trim_end().to_owned());
    let mut next = || lines.next().expect("it prints more");
    let id = next();
    let bound: Vec<String> = (0..3).map(|_| next()).collect();
    assert_eq!(next(), "ready", "{bound:?}");
    let port = |line: &str| line.rsplit(':').next().expect("a port").to_owned();
    assert_eq!([next(), next()], ["", "Try next:"]);
    assert_eq!(next(), format!("  redis-cli -p {} SET greeting hello", port(&bound[1])));
    assert_eq!(next(), format!("  redis-cli -p {} GET greeting", port(&bound[1])));
    assert!(next().starts_with(&format!("  http://127.0.0.1:{}/", port(&bound[2]))));
    assert_eq!([next(), next()], ["", "Ctrl+C drains and stops."]);
    assert!(Command::new("kill").args(["-s", "TERM", &id]).status().expect("kill runs").success());
    assert!(script.wait().expect("it ends").success());

    // A program that reads stdout gets the addresses and `ready`, and nothing else.
    let mut server = Command::new(binary)
        .args(["serve", "--l2", "none", "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut output = BufReader::new(server.stdout.take().expect("piped"));
    let mut printed = String::new();
    while !printed.ends_with("ready\n") {
        assert!(output.read_line(&mut printed).expect("UTF-8") > 0, "{printed}");
    }
    assert!(Command::new("kill").args(["-s", "TERM", &server.id().to_string()]).status().expect("kill runs").success());
    output.read_to_string(&mut printed).expect("UTF-8");
    assert!(server.wait().expect("it ends").success());
    let words: Vec<&str> = printed.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(words, ["grpc", "resp", "http", "ready"]);
}

#[test]
fn a_port_in_use_is_exit_code_69_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let output = serve(&["--http", &address]);
    assert_eq!(output.status.code(), Some(69));
    assert!(stderr(&output).contains("http") && stderr(&output).contains(&address), "{}", stderr(&output));
}

#[test]
fn a_data_directory_that_is_not_to_be_had_is_exit_code_69_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a-file");
    std::fs::write(&file, "no directory").expect("written");
    let output = serve(&["--l2", "embedded", "--data-dir", file.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(69), "{}", stderr(&output));
    assert!(stderr(&output).contains("a-file"), "{}", stderr(&output));
}

#[test]
fn the_configuration_is_printed_with_its_sources_and_without_secrets() {
    let args = ["config", "--l2", "redis://u:hunter2@localhost", "--l1-size=1GiB", "--expose"];
    let text = stdout(&terrace(&args));
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line("l1.size ").contains("= \"1GiB\" ") && line("l1.size ").ends_with("# flag --l1-size"), "{text}");
    assert!(line("l2.url ").contains("\"redis://u:***@localhost:6379/0\""), "{text}");
    assert!(line("server.log ").ends_with("# default, reloadable"), "{text}");
    assert!(line("server.expose ").contains("true"), "{text}");
    assert!(!text.contains("hunter2"));
    let json = stdout(&terrace(&[&args[..], &["--format", "json"]].concat()));
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), terrace::config::Row::all().len());
    let size = lines.iter().find(|line| line["key"] == "l1.size").expect("there");
    assert_eq!(size["value"], "\"1GiB\"");
    assert_eq!(size["source"], "flag --l1-size");
    assert_eq!(size["reloadable"], false);
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("terrace.toml");
    let printed = || stdout(&terrace(&["config", "--config", path.to_str().expect("UTF-8")]));
    let policies = "[[policy]]\nmatch = \"a*\"\nmax_ttl = \"1h\"\n[[policy]]\nmatch = \"*\"\nl1 = false\n";
    std::fs::write(&path, format!("[l1]\nsize = \"1GiB\"\n{policies}")).expect("written");
    let before = printed();
    std::fs::write(&path, &before).expect("written");
    let after = printed();
    let values = |text: &str| text.lines().map(|line| line.split("  #").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert!(before.contains("[[policy]]\nmatch"), "{before}");
    assert_eq!(values(&before), values(&after));
}

#[test]
fn health_tells_how_a_server_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Process::start(folder.path(), &["--l2", "none"]);
    let output = terrace(&["health", "--server", &server.grpc, "--ready"]);
    assert_eq!(stdout(&output), format!("{}: ready, L2 up\n", server.grpc));
    assert_eq!(output.status.code(), Some(0));
    let output = terrace(&["health", "--server", &server.grpc, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(told["ready"], true);
    let address = server.grpc.clone();
    server.kill();
    let output = terrace(&["health", "--server", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot connect to {address}: ")), "{}", stderr(&output));
}

#[test]
fn health_is_not_ready_before_the_first_contact_with_l2() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let server = Process::start(folder.path(), &["--l2", &format!("redis://{nobody}")]);
    assert_eq!(terrace(&["health", "--server", &server.grpc]).status.code(), Some(0), "it is alive");
    let output = terrace(&["health", "--server", &server.grpc, "--ready"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("not ready, L2 down"), "{}", stdout(&output));
    eventually("the log says so", || server.log().contains("L2 is unreachable; the server runs but is not ready"));
}

#[test]
fn sigterm_drains_and_ends_with_0() {
    let folder = tempfile::tempdir().expect("a folder");
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Process::start(folder.path(), &["--l2", "none"]);
        server.signal(signal);
        eventually("the server ends", || server.ended().is_some());
        assert_eq!(server.ended().and_then(|status| status.code()), Some(0), "after {signal:?}");
    }
}

#[test]
fn sighup_takes_over_what_may_change_names_what_may_not_and_survives_a_faulty_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("terrace.toml");
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write("[l1]\nsize = \"64MiB\"\n");
    let server = Process::start(folder.path(), &["--l2", "none", "--config", path.to_str().expect("UTF-8")]);
    let logged = |part: &str| {
        let what = format!("the log says {part:?}");
        eventually(&what, || server.log().contains(part));
    };

    write("[l1]\nsize = \"128MiB\"\n[server]\nlog = \"info,h2=warn\"\n");
    server.signal(Signal::HUP);
    logged("changed settings that require a restart: l1.size");
    logged("configuration reloaded");

    write("[l1]\nsize = \"64MiB\"\n[grpc]\ntimeout = 3\nmax_mesage = 1\n");
    server.signal(Signal::HUP);
    logged("terrace.toml:4: grpc.timeout: 3 is not a duration");
    logged("terrace.toml:5: unknown key grpc.max_mesage; did you mean grpc.max_message?");
    logged("rejected new configuration; keeping the current one");

    write("[server]\nlog = \"off\"\n");
    server.signal(Signal::HUP);
    assert_eq!(terrace(&["health", "--server", &server.grpc, "--ready"]).status.code(), Some(0), "it still serves");
}

#[test]
fn the_log_tells_once_that_l2_is_lost_and_found() {
    let mut redis = RedisServer::start();
    let folder = tempfile::tempdir().expect("a folder");
    let server = Process::start(folder.path(), &["--l2", &redis.url()]);
    let told = |part: &str| server.log().matches(part).count();
    eventually("it is ready", || terrace(&["health", "--server", &server.grpc, "--ready"]).status.success());
    redis.kill();
    eventually("the loss is told", || told("L2 is unavailable") == 1);
    redis.restart();
    eventually("the return is told", || told("L2 is available again") == 1);
    assert_eq!((told("L2 is unavailable"), told("L2 is unreachable")), (1, 0), "{}", server.log());
}
