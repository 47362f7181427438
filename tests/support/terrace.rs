//! A Terrace server in this process, on free ports, drained and stopped on drop; and configurations for it.

use std::{path::Path, sync::Arc, thread, time::Duration};

use terrace::{
    clock::Clock,
    config::Config,
    node::Node,
    server::{Reload, Server},
};
use tokio::sync::{mpsc, oneshot};

use super::PATIENCE;

/// A running server, stopped on drop.
pub struct Terrace {
    pub node: Arc<Node>,
    reloads: mpsc::Sender<Reload>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// The default configuration on free ports, without an L2.
pub fn config() -> Config {
    let mut config = Config::default();
    config.grpc.addr = "127.0.0.1:0".into();
    config.resp.addr = "127.0.0.1:0".into();
    config.http.addr = "127.0.0.1:0".into();
    config.l2.url = "none".into();
    // Servers of one process would write their files into one folder.
    config.data.hot_keys = 0;
    config.learn.snapshot_every = Duration::ZERO;
    config
}

/// The configuration of a node over the L2 at `url`, with the default deadlines.
pub fn config_over(url: impl Into<String>) -> Config {
    let mut config = config();
    config.l2.url = url.into().into();
    config
}

/// The configuration of a node over the L2 at `url`, with deadlines that only a hang exceeds.
pub fn config_patient(url: impl Into<String>) -> Config {
    let mut config = config_over(url);
    config.l2.read_timeout = PATIENCE;
    config.l2.write_timeout = PATIENCE;
    config.data.read_timeout = PATIENCE;
    config.data.write_timeout = PATIENCE;
    config
}

/// The configuration of a node over an embedded store in `dir`, with deadlines that only a hang exceeds.
pub fn config_embedded(dir: &Path) -> Config {
    let mut config = config_patient("embedded");
    config.data.dir = dir.into();
    config
}

impl Terrace {
    /// Starts a server and waits until it accepts.
    pub fn start(config: Config) -> Self {
        Self::start_at(config, Clock::real())
    }

    /// As [`Terrace::start`], with this clock.
    pub fn start_at(config: Config, clock: Clock) -> Self {
        Self::run(Server::bind(config, Vec::new(), clock).expect("the server binds"))
    }

    /// Runs a bound server and waits until it accepts.
    pub fn run(server: Server) -> Self {
        let node = Arc::clone(&server.node);
        let (stop, stopped) = oneshot::channel::<()>();
        let (reloads, reload_queue) = mpsc::channel(1);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let run = move || {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(|| ready.send(()).expect("the test waits"), reload_queue, stopped).expect("the server runs");
        };
        let thread = thread::spawn(run);
        is_ready.recv().expect("the server becomes ready");
        Self { node, reloads, stop: Some(stop), thread: Some(thread) }
    }

    /// Address of the gRPC port.
    pub fn grpc(&self) -> &str {
        &self.node.addresses.get().expect("bound").grpc
    }

    /// Address of the RESP port.
    pub fn resp(&self) -> &str {
        &self.node.addresses.get().expect("bound").resp
    }

    /// Address of the HTTP port.
    pub fn http(&self) -> &str {
        &self.node.addresses.get().expect("bound").http
    }

    /// Sends the server a new configuration; returns once it is queued.
    pub fn reload(&self, config: Config) {
        self.reloads.blocking_send((config, Vec::new())).expect("the server runs");
    }

    /// Begins the drain and returns at once.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Drains and waits for the end.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the server ended in a panic");
        }
    }
}

impl Drop for Terrace {
    fn drop(&mut self) {
        self.end();
    }
}
