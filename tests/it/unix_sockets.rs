//! Unix sockets: they serve all three protocols, are removed at exit, and are never taken from another process. Socket
//! activation and notification by systemd.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use terrace::{
    clock::Clock,
    config::Config,
    server::{Server, StartError},
};

use crate::support::{
    PATIENCE,
    command::terrace,
    terrace::{Terrace, config},
};

fn at(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

fn address(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A configuration with all three ports as sockets in `folder`.
fn on_sockets(folder: &Path) -> Config {
    let mut config = config();
    config.grpc.addr = address(&at(folder, "grpc"));
    config.resp.addr = address(&at(folder, "resp"));
    config.http.addr = address(&at(folder, "http"));
    config
}

fn exchange(path: &Path, request: &[u8], reply: &[u8]) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut got = vec![0; reply.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(reply));
}

#[test]
fn all_three_ports_serve_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut wanted = on_sockets(folder.path());
    wanted.server.workers = 2;
    let server = Terrace::start(wanted);
    assert_eq!(server.grpc(), address(&at(folder.path(), "grpc")));
    for _ in 0..8 {
        exchange(&at(folder.path(), "resp"), b"SET k v\r\nGET k\r\n", b"+OK\r\n$1\r\nv\r\n");
    }
    exchange(&at(folder.path(), "http"), b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n");
    let health = terrace(&["health", "--ready", "--server", server.grpc()]).output().unwrap();
    assert!(health.status.success(), "{}", String::from_utf8_lossy(&health.stderr));
    let mode = std::fs::metadata(at(folder.path(), "resp")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    server.stop();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn redis_cli_and_a_client_see_the_path_and_are_not_strangers() {
    let folder = tempfile::tempdir().unwrap();
    let server = Terrace::start(on_sockets(folder.path()));
    let path = at(folder.path(), "resp");
    let ask = |words: &[&str]| {
        let output = Command::new("redis-cli").arg("-s").arg(&path).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ask(&["SET", "k", "v"]), "OK\n");
    assert!(ask(&["CLIENT", "LIST"]).contains(&format!("addr={}:0 laddr={}:0", path.display(), path.display())));
    assert!(ask(&["INFO", "server"]).contains("tcp_port:0\r"));
    drop(server);
}

#[test]
fn the_socket_of_a_killed_server_is_taken_over_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let bind = || Server::bind(on_sockets(folder.path()), Vec::new(), Clock::real());
    // A killed server leaves a path without a listener.
    drop(UnixListener::bind(at(folder.path(), "grpc")).unwrap());
    let server = Terrace::run(bind().unwrap());
    let refusal = |result: Result<Server, StartError>| match result {
        Err(StartError::Port(message)) => message,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let message = refusal(bind());
    assert!(message.contains("grpc") && message.contains("in use"), "{message}");
    exchange(&at(folder.path(), "resp"), b"PING\r\n", b"+PONG\r\n");
    server.stop();
    std::fs::write(at(folder.path(), "grpc"), "precious").unwrap();
    let message = refusal(bind());
    assert!(message.contains("is not a socket"), "{message}");
    assert_eq!(std::fs::read(at(folder.path(), "grpc")).unwrap(), b"precious");
}

/// A child process that is killed on drop.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `serve` as systemd does: the listener is descriptor 3, and the environment contains its name.
fn activated(folder: &Path, listener: OwnedFd, name: &str, notify: &Path) -> Child {
    let script = r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;
    Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_terrace"), "serve", "--l2", "none"])
        .args(["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--resp", "127.0.0.1:0"])
        .env("LISTEN_FDNAMES", name)
        .env("NOTIFY_SOCKET", notify)
        .current_dir(folder)
        .stdin(Stdio::from(listener))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn systemd_passes_listeners_and_hears_of_ready_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let (path, notify) = (at(folder.path(), "resp"), at(folder.path(), "notify"));
    let listener = UnixListener::bind(&path).unwrap();
    let heard = UnixDatagram::bind(&notify).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let read = heard.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..read]).trim().to_owned()
    };
    let mut server = Killed(activated(folder.path(), listener.into(), "resp", &notify));
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let printed: Vec<String> = lines.take(4).collect();
    assert_eq!((&printed[1][..], &printed[3][..]), (&*format!("resp {}", address(&path)), "ready"));
    assert_eq!(hear(), "READY=1");
    exchange(&path, b"PING\r\n", b"+PONG\r\n");
    kill_process(Pid::from_raw(i32::try_from(server.0.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(server.0.wait().unwrap().success());
    assert!(path.exists(), "the path is systemd's");
}

#[test]
fn a_listener_of_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(at(folder.path(), "s")).unwrap();
    let output = activated(folder.path(), listener.into(), "terrace.socket", Path::new("/dev/null"));
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("FileDescriptorName="));
}
