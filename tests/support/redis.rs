//! A real redis-server in a temporary directory, on a free loopback port, killed on drop.

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
    /// Starts a server without persistence and otherwise with Redis's defaults; waits until it answers.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with further arguments, as on the command line (`--maxmemory 10mb`).
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_by(&|| args.iter().map(|&arg| arg.to_owned()).collect())
    }

    /// Starts a server with arguments that are created for each attempt, because they contain another free port.
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

    /// An error reply (NOAUTH) counts as an answer, except while the server is loading.
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

    /// The port on 127.0.0.1; [`RedisServer::restart`] keeps it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("redis-server runs").id()
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Path of the Unix socket.
    pub fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Opens a connection with a time limit for answers.
    pub fn connect(&self) -> Connection {
        let connection = self.try_connect(super::PATIENCE).expect("a connection to the test's redis-server");
        connection.set_read_timeout(Some(super::PATIENCE)).expect("a time-out can be set");
        connection
    }

    /// Sends one command over a new connection and converts its answer; panics on an error.
    pub fn ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> T {
        self.try_ask(words).expect("an answer of the right type")
    }

    /// Sends one command over a new connection.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&[u8]]) -> ::redis::RedisResult<T> {
        ::redis::Cmd::new().arg(words).query(&mut self.connect())
    }

    /// As [`RedisServer::try_ask`], to a server that may be stopped or killed.
    pub fn try_ask_within<T: FromRedisValue>(&self, within: Duration, words: &[&[u8]]) -> ::redis::RedisResult<T> {
        let mut connection = self.try_connect(within)?;
        connection.set_read_timeout(Some(within))?;
        ::redis::Cmd::new().arg(words).query(&mut connection)
    }

    /// Sends one command, its words separated by blanks, and ignores its answer.
    pub fn run(&self, line: &str) {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        self.ask::<Value>(&words);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("redis-server runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("redis-server takes signals");
    }

    /// Sends SIGSTOP: the kernel still accepts connections, and the server answers nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGKILL and waits until the port refuses connections.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("redis-server can be killed");
            child.wait().expect("redis-server ends");
        }
        eventually("the port refuses", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    /// Starts the server again on the same port, empty; waits until it answers.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "kill it before");
        assert!(self.launch(), "redis-server starts again on its port");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // SIGKILL also ends a stopped process. An error means that the process has ended by itself.
            let _ended = child.kill();
            let _status = child.wait();
        }
    }
}

/// Returns a port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}
