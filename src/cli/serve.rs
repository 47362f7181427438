//! `terrace serve`: reads the configuration, binds the ports and serves until a signal.

mod next_steps;

use std::{io::IsTerminal, os::unix::fs::PermissionsExt, path::PathBuf, thread};

use rustix::{fs::Mode, process::umask};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use self::next_steps::{Needs, next_steps};
use super::{Failure, Result, log, say, settings::SettingArgs, systemd};
use crate::{
    clock::Clock,
    config::{self, Config, Loaded, Sources},
    node::VERSION,
    server::{Reload, Server},
};

/// Run the cache server with its gRPC, RESP (redis-cli) and HTTP ports.
///
/// Prints one line for each bound address, then `ready`. Logs go to stderr. SIGTERM and SIGINT start a drain: the server
/// refuses new connections, finishes running requests and exits with code 0. SIGHUP rereads the configuration file.
/// Listeners that systemd passes as `grpc`, `resp` and `http` (FileDescriptorName=) replace the configured addresses.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: SettingArgs,
}

pub(super) fn run(args: Args) -> Result {
    // Before any thread starts: files of the server contain cached values. Unix sockets get their mode separately.
    umask(Mode::RWXG | Mode::RWXO);
    let sources = args.settings.sources();
    let loaded = config::load(&sources)?;
    let log = log::start(&loaded.config)?;
    let level = log.level.clone();
    log_start(&loaded, &sources);
    for warning in loaded.warnings.iter().chain(&readable_folders(&loaded.config)) {
        tracing::warn!("{warning}");
    }
    // One pending reload is enough, because a later one would replace it.
    let (reload, reloads) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel();
    Signals::new()?.start(Reloader { sources, running: loaded.clone(), reload }, stop)?;

    let has_password = loaded.config.resp.password_file.is_some();
    let server = Server::bind_with(loaded.config, loaded.settings, Clock::real(), &systemd::passed()?)?
        .with_log_level(move |filter| level.set(filter));
    let tls = &server.node.tls;
    let needs = Needs { password: has_password, resp_tls: tls.resp.is_on(), http_tls: tls.http.is_on() };
    let bound = server.node.addresses.get().cloned();
    if let Some(bound) = &bound {
        say(format_args!("grpc {}\nresp {}\nhttp {}", bound.grpc, bound.resp, bound.http));
        if let Some(health) = &bound.health {
            say(format_args!("health {health}"));
        }
    }
    // An error means that the signal listener ended; no other event could stop the server then.
    let stopped = async {
        let _signal = stopped.await;
    };
    let ready = || {
        say("ready");
        // Programs read stdout too: print the suggestions only on a terminal.
        if let Some(bound) = bound.filter(|_| std::io::stdout().is_terminal()) {
            say(next_steps(&bound, needs));
        }
        systemd::ready();
    };
    server.run(ready, reloads, stopped)?;
    tracing::info!("drained");
    log.finish();
    Ok(())
}

/// Returns a warning for each existing data directory that other users can enter.
fn readable_folders(config: &Config) -> Vec<String> {
    let own = config.l2.url.expose().strip_prefix("embedded:").map(PathBuf::from);
    let folders = [Some(config.data.dir.clone()), own].into_iter().flatten();
    let mode = |folder: &PathBuf| std::fs::metadata(folder).ok().map(|there| there.permissions().mode() & 0o777);
    let open = folders.filter_map(|folder| mode(&folder).filter(|mode| mode & 0o005 != 0).map(|mode| (folder, mode)));
    open.map(|(folder, mode)| {
        let shown = folder.display();
        format!("other users can read {shown} (mode {mode:03o}), which has cached values; run chmod o-rwx {shown}")
    })
    .collect()
}

/// Logs the version, the L2 URL without its password, and the sources of the configuration.
fn log_start(loaded: &Loaded, sources: &Sources) {
    let l2 = loaded.settings.iter().find(|setting| setting.key == "l2.url").map_or("", |setting| &setting.value);
    let configuration = sources.to_string();
    tracing::info!(version = VERSION, l2 = l2.trim_matches('"'), configuration, "starting");
}

/// Signal handlers of the server, installed before the ports are bound.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(Failure::new);
        let terminate = listen(SignalKind::terminate())?;
        let interrupt = listen(SignalKind::interrupt())?;
        let hangup = listen(SignalKind::hangup())?;
        drop(inside);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }

    /// Listens in a dedicated thread, which ends with the process.
    fn start(self, reloader: Reloader, stop: oneshot::Sender<()>) -> Result {
        let Self { runtime, terminate, interrupt, hangup } = self;
        let listen = move || runtime.block_on(listen(terminate, interrupt, hangup, reloader, stop));
        thread::Builder::new().name("signals".into()).spawn(listen).map_err(Failure::new)?;
        Ok(())
    }
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    mut hangup: Signal,
    mut reloader: Reloader,
    stop: oneshot::Sender<()>,
) {
    let mut stop = Some(stop);
    loop {
        tokio::select! {
            _ = terminate.recv() => drain(stop.take()),
            _ = interrupt.recv() => drain(stop.take()),
            _ = hangup.recv() => reloader.reload().await,
        }
    }
}

/// Starts the drain on the first signal. Further signals are ignored: process groups and supervisors often deliver a
/// signal twice, and the drain has a deadline.
fn drain(stop: Option<oneshot::Sender<()>>) {
    if let Some(stop) = stop {
        tracing::info!("draining");
        systemd::stopping();
        // An error means that the server has already stopped.
        let _stopping = stop.send(());
    }
}

/// Rereads the configuration file.
struct Reloader {
    sources: Sources,
    running: Loaded,
    reload: mpsc::Sender<Reload>,
}

impl Reloader {
    /// Applies the reloadable settings. An invalid file changes nothing.
    async fn reload(&mut self) {
        let fresh = match config::load_again(&self.sources) {
            Ok(fresh) => fresh,
            Err(faults) => {
                for fault in &faults.0 {
                    tracing::error!("{fault}");
                }
                tracing::error!("rejected new configuration; keeping the current one");
                return;
            }
        };
        for warning in &fresh.warnings {
            tracing::warn!("{warning}");
        }
        let (effective, restart) = config::reload(&self.running, fresh);
        if !restart.is_empty() {
            tracing::warn!("changed settings that require a restart: {}", restart.join(", "));
        }
        self.running = effective.clone();
        // An error means that the server is stopping.
        let _taken = self.reload.send((effective.config, effective.settings)).await;
    }
}
