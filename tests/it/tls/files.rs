//! Files of certificates and keys: faults at start and at a reload, and reloads under load.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use rustix::process::Signal;
use terrace::{
    clock::Clock,
    config::{Config, TlsMode},
    server::Server,
};

use super::{Files, ask};
use crate::support::{
    certificates::{Authority, Identity, connect, presented},
    command::terrace,
    eventually,
    http::metric,
    process::Process,
    terrace::Terrace,
};

/// A fault of the files: the changed file, the change, and a part of the message.
type Fault = (&'static str, fn(&Path, &Identity), &'static str);

fn rewrite(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

fn half(path: &Path, _: &Identity) {
    rewrite(path, |text| text[..text.len() / 2].to_owned());
}

/// All faults of a file that must be found before the file is used.
const FAULTS: [Fault; 12] = [
    ("server.crt", |path, _| fs::remove_file(path).unwrap(), "No such file"),
    ("server.crt", half, "cannot read PEM certificates"),
    ("server.crt", |path, _| fs::write(path, "").unwrap(), "contains no certificate"),
    (
        "server.crt",
        |path, _| fs::write(path, "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n").unwrap(),
        "is invalid",
    ),
    (
        "server.crt",
        |path, other| fs::write(path, &other.certificate).unwrap(),
        "cannot be used: keys may not be consistent",
    ),
    ("server.crt", |path, _| fs::write(path, Authority::new().issue_until(None, 2020).certificate).unwrap(), "expired"),
    (
        "server.crt",
        |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        "it is not a regular file",
    ),
    (
        "server.key",
        |path, _| {
            fs::remove_file(path).unwrap();
            make_fifo(path);
        },
        "it is not a regular file",
    ),
    ("server.key", half, "cannot read a PEM private key"),
    ("server.key", |path, other| fs::write(path, &other.certificate).unwrap(), "cannot read a PEM private key"),
    ("ca.pem", |path, _| fs::write(path, "text").unwrap(), "contains no certificate"),
    ("ca.pem", |path, other| fs::write(path, &other.key).unwrap(), "contains no certificate"),
];

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Removes a file or directory and writes a file.
fn restore(path: &Path, contents: &[u8]) {
    let _directory = fs::remove_dir(path);
    let _file = fs::remove_file(path);
    fs::write(path, contents).unwrap();
}

#[test]
fn a_faulty_file_stops_the_start_and_is_named() {
    let files = Files::new();
    let other = files.authority.issue(None);
    let bind = |config: Config| Server::bind(config, Vec::new(), Clock::real()).err();
    for (name, spoil, why) in FAULTS {
        let path = files.path(name);
        let contents = fs::read(&path).unwrap();
        spoil(&path, &other);
        let error = bind(files.config(TlsMode::Mutual)).unwrap_or_else(|| panic!("{name} must not contain: {why}"));
        let error = error.to_string();
        assert!(error.contains(why) && error.contains(&path.display().to_string()), "{why}: {error}");
        assert!(error.starts_with("tls."), "{error}");
        restore(&path, &contents);
    }
    assert!(bind(files.config(TlsMode::Mutual)).is_none());
}

#[test]
fn faults_of_the_settings_have_exit_code_64_and_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("terrace.toml");
    let exit = |text: &str| {
        fs::write(&path, format!("[l2]\nurl = \"none\"\n{text}")).unwrap();
        let file = path.display().to_string();
        let args =
            ["serve", "--config", &file, "--grpc", "127.0.0.1:0", "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let output = terrace(&args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = exit("[tls]\nmode = \"mutual\"\ncert_file = \"a\"\nkey_file = \"b\"\n");
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("terrace.toml:4"), "{error}");
    assert!(error.contains("tls.mode: \"mutual\" requires tls.client_ca_file, which is not set"), "{error}");
    assert_eq!(error.matches("client_ca_file").count(), 1, "{error}");
    let (code, error) = exit("[resp]\ntls_mode = \"on\"\n");
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("resp.tls_mode: \"on\" requires resp.tls_cert_file or tls.cert_file"), "{error}");
    let (code, error) = exit("[tls]\nmode = \"on\"\ncert_file = \"/nowhere/a\"\nkey_file = \"/nowhere/b\"\n");
    assert_eq!(code, Some(64), "{error}");
    assert!(error.contains("tls.cert_file: /nowhere/a: cannot read PEM certificates"), "{error}");
}

#[test]
fn a_faulty_change_keeps_the_certificate_and_is_counted() {
    let files = Files::new();
    let other = files.authority.issue(None);
    let mut config = files.config(TlsMode::Optional);
    config.http.tls_mode = Some(TlsMode::Off);
    let server = Terrace::start(config.clone());
    let client = files.client();
    let rejected = || server.node.tls.resp.rejected_reloads.load(Relaxed);
    // The server checks every 2 s as well, and may see the fault first.
    for (number, (name, spoil, why)) in FAULTS.into_iter().enumerate() {
        let path = files.path(name);
        let contents = fs::read(&path).unwrap();
        spoil(&path, &other);
        server.node.tls.reload_changed();
        eventually("the fault is counted", || rejected() == number as u64 + 1);
        server.node.tls.reload_changed();
        assert_eq!(rejected(), number as u64 + 1, "{why}: counted once");
        assert_eq!(presented(server.resp(), &client), files.server.der(), "{why}");
        restore(&path, &contents);
        server.node.tls.reload_changed();
        assert_eq!(rejected(), number as u64 + 1, "{why}: restored");
    }
    let counted = metric(server.http(), "terrace_tls_reloads_rejected_total{port=\"resp\"}");
    assert_eq!(counted, Some(FAULTS.len() as f64));

    config.resp.tls_mode = Some(TlsMode::Off);
    config.tls.cert_file = Some("/nowhere".into());
    server.reload(config.clone());
    eventually("the reload is rejected", || server.node.tls.grpc.rejected_reloads.load(Relaxed) > FAULTS.len() as u64);
    assert_eq!(presented(server.resp(), &client), files.server.der(), "all ports keep their settings");
    config.tls.cert_file = Some(files.path("server.crt"));
    server.reload(config);
    eventually("the port has no TLS", || connect(server.resp(), &client).is_err());
}

/// Ends the load of a test, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_new_certificate_is_used_without_a_failed_call() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let client = files.client();
    let (stop, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                let mut connection = connect(server.resp(), &client).unwrap();
                while !stop.load(Relaxed) {
                    connection.write_all(b"PING\r\n").expect("the connection continues");
                    let mut reply = [0; 7];
                    connection.read_exact(&mut reply).expect("the connection continues");
                    calls.fetch_add(1, Relaxed);
                }
            });
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let answer = ask(server.resp(), &client, "PING\r\nQUIT\r\n").expect("a new connection is served");
                    assert_eq!(answer, "+PONG\r\n+OK\r\n");
                }
            });
        }
        for _ in 0..3 {
            let next = files.authority.issue(None);
            next.write(files.folder.path(), "server");
            // Waits for the interval of the server itself.
            eventually("new connections see the new certificate", || presented(server.resp(), &client) == next.der());
            let before = calls.load(Relaxed);
            eventually("old connections continue", || calls.load(Relaxed) > before + 100);
        }
    });
}

#[test]
fn sighup_and_the_switch_of_a_kubernetes_secret_load_the_new_files() {
    let (files, data) = (Files::new(), tempfile::tempdir().unwrap());
    // Kubernetes: tls.crt -> ..data/tls.crt, ..data -> ..1; a new version is a new directory, and ..data is switched.
    let volume = tempfile::tempdir().unwrap();
    let at = |name: &str| volume.path().join(name);
    let publish = |version: &str, identity: &Identity| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("tls.crt"), &identity.certificate).unwrap();
        fs::write(at(version).join("tls.key"), &identity.key).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    publish("..1", &files.server);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), at(name)).unwrap();
    }
    let (cert, key) = (at("tls.crt").display().to_string(), at("tls.key").display().to_string());
    let flags = ["--tls-mode", "on", "--tls-cert-file", &cert, "--tls-key-file", &key, "--http-tls-mode", "off"];
    let process = Process::start(data.path(), &[&flags[..], &["--l2", "none"]].concat());
    let client = files.client();
    assert_eq!(presented(&process.resp, &client), files.server.der());
    let second = files.authority.issue_until(None, 2050);
    publish("..2", &second);
    eventually("the switch is noticed", || presented(&process.grpc, &client) == second.der());
    let not_after = || metric(&process.http, "terrace_tls_not_after_seconds{port=\"grpc\"}");
    assert_eq!(not_after(), Some(2_524_608_000.0));
    eventually("it is logged", || process.log().contains("loaded TLS files port=\"resp\""));

    let third = files.authority.issue(None);
    publish("..3", &third);
    process.signal(Signal::HUP);
    eventually("SIGHUP reads the files", || presented(&process.resp, &client) == third.der());
    publish("..4", &Identity { certificate: files.server.certificate.clone(), key: third.key.clone() });
    let line = "rejected TLS files; keeping the current certificate port=\"resp\"";
    let logged = || process.log().matches(line).count();
    eventually("the fault is logged", || logged() == 1);
    // A faulty file does not prevent changes of other settings.
    process.signal(Signal::HUP);
    eventually("SIGHUP reads the files again", || logged() == 2);
    assert_eq!(process.log().matches("configuration reloaded").count(), 2);
    assert_eq!(presented(&process.resp, &client), third.der());
}
