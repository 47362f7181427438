//! The `terrace` binary as a separate process that tests can signal and kill.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};

/// Returns the resident memory of a process in bytes; `None` if it has ended.
pub fn memory_of(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Returns the command that runs one test of this binary in a process of its own. `module` is the `module_path!()` of the test.
pub fn command_of_test(module: &str, test: &str) -> Command {
    // The name of a test is its path without the crate.
    let (_crate, path) = module.split_once("::").expect("a module of a test binary");
    let mut command = Command::new(env::current_exe().expect("this binary"));
    command.args([&format!("{path}::{test}"), "--exact", "--nocapture", "--test-threads", "1"]);
    command
}

/// Runs one test in a process of its own, in which `variable` is 1; fails the test if the other did not pass.
pub fn run_alone(module: &str, test: &str, variable: &str) {
    let output = command_of_test(module, test).env(variable, "1").output().expect("a process");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{}: {errors}", output.status);
}

/// The user of a process.
#[derive(Debug, Clone, Copy)]
pub enum User {
    /// The user of the test.
    Same,
    /// A user by number, and the group of that number.
    Id(u32),
}

/// A `terrace serve` on free ports.
pub struct Process {
    child: Child,
    pub grpc: String,
    pub resp: String,
    pub http: String,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the binary with further arguments and waits until it prints `ready`.
    pub fn start(data_dir: &Path, args: &[&str]) -> Self {
        Self::start_with(data_dir, args, &[])
    }

    /// As [`Process::start`], with this gRPC address.
    pub fn start_at(grpc: &str, data_dir: &Path, args: &[&str]) -> Self {
        Self::launch(User::Same, grpc, data_dir, args, &[])
    }

    /// As [`Process::start`], with further environment variables.
    pub fn start_with(data_dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_as(User::Same, data_dir, args, environment)
    }

    /// As [`Process::start_with`], as another user.
    pub fn start_as(user: User, data_dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::launch(user, "127.0.0.1:0", data_dir, args, environment)
    }

    fn launch(user: User, grpc: &str, data_dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
        if let User::Id(number) = user {
            command.uid(number).gid(number);
        }
        let mut child = command
            .args(["serve", "--grpc", grpc, "--resp", "127.0.0.1:0", "--http", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data_dir)
            .args(args)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = read_until_ready(child.stdout.take().expect("piped"));
        if lines.last().map(String::as_str) != Some("ready") {
            let mut errors = String::new();
            let _ = child.kill();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut errors);
            panic!("terrace did not become ready; it printed {lines:?} and {errors}");
        }
        // A full pipe would block a server that logs much.
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let log = Arc::new(Mutex::new(String::new()));
        let keep = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                keep.lock().expect("no panic").push_str(&(line + "\n"));
            }
        });
        let address = |name: &str| {
            let line = lines.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().to_owned()
        };
        Self { grpc: address("grpc "), resp: address("resp "), http: address("http "), log, child }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }

    /// The exit status, once the process has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Sends SIGTERM and waits until the process has drained.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        super::eventually("it has drained", || self.ended().is_some());
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("it lives");
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// CPU time of all running threads of a process so far, nanoseconds.
pub fn cpu_ns(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let of_task = |task: fs::DirEntry| {
        let schedule = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedule.split(' ').next()?.parse::<f64>().ok()
    };
    tasks.filter_map(Result::ok).filter_map(of_task).sum()
}

fn read_until_ready(stdout: ChildStdout) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let last = line == "ready";
        lines.push(line);
        if last {
            break;
        }
    }
    lines
}
