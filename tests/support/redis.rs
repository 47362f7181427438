//! A real redis-server of the test's own: in a temporary directory, on a free loopback port, killed on drop.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use ::redis::{Client, Connection, FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// Attempts to find a port that stays free until redis-server has it.
const PORT_ATTEMPTS: usize = 5;

/// A running (or stopped, or killed) redis-server.
pub struct RedisServer {
    dir: TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// Without persistence, with Redis's defaults else; waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments, as on the command line (`--maxmemory 10mb`).
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_by(&|| args.iter().map(|&arg| arg.to_owned()).collect())
    }

    /// With arguments that are made anew for each attempt, because they name a port of their own.
    pub fn start_by(args: &dyn Fn() -> Vec<String>) -> Self {
        for _ in 0..PORT_ATTEMPTS {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let mut server = Self { dir, port: free_port(), args: args(), child: None };
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server did not start in {PORT_ATTEMPTS} attempts");
    }

    fn launch(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--unixsocket")
            .arg(self.socket())
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.child = Some(child);
        let mut alive = true;
        eventually("redis-server answers", || {
            alive = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            !alive || self.answers()
        });
        alive
    }

    /// An error reply (NOAUTH) is an answer, too; while it loads it is not.
    fn answers(&self) -> bool {
        let Ok(mut connection) = self.try_connect(Duration::from_secs(1)) else { return false };
        match ::redis::cmd("PING").query::<Value>(&mut connection) {
            Ok(_) => true,
            Err(error) => error.code().is_some_and(|code| code != "LOADING"),
        }
    }

    fn try_connect(&self, within: Duration) -> ::redis::RedisResult<Connection> {
        Client::open(self.url())?.get_connection_with_timeout(within)
    }

    /// Its port on 127.0.0.1; the same after [`RedisServer::restart`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("redis-server runs").id()
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Path of its Unix socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// A connection of the test's own, with a limit on each answer.
    pub fn connect(&self) -> Connection {
        let connection = self.try_connect(super::PATIENCE).expect("a connection to the test's redis-server");
        connection.set_read_timeout(Some(super::PATIENCE)).expect("a time-out can be set");
        connection
    }

    /// One command over a new connection, its answer as the type wanted; panics on an error.
    pub fn ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        self.try_ask(words).expect("an answer of the right type")
    }

    /// One command over a new connection.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> ::redis::RedisResult<T> {
        ::redis::Cmd::new().arg(words).query(&mut self.connect())
    }

    /// As [`RedisServer::try_ask`], of a server that may be stopped or gone.
    pub fn try_ask_within<T: FromRedisValue>(&self, within: Duration, words: &[&[u8]]) -> ::redis::RedisResult<T> {
        let mut connection = self.try_connect(within)?;
        connection.set_read_timeout(Some(within))?;
        ::redis::Cmd::new().arg(words).query(&mut connection)
    }

    /// One command written as words in a line, whose answer does not matter.
    pub fn run(&self, line: &str) {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        self.ask::<Value>(&words);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("redis-server takes signals");
    }

    /// SIGSTOP: it accepts connections (the kernel does) and answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL, and waits until it is gone: its port refuses.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("redis-server can be killed");
            child.wait().expect("redis-server ends");
        }
        eventually("the port refuses", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    /// Again on the same port, empty; waits until it answers.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "kill it before");
        assert!(self.launch(), "redis-server starts again on its port");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL also ends a stopped process. An error means that it has ended by itself.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
