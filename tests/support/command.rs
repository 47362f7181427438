//! Commands that tests run: the `terrace` binary and programs of the system.

use std::process::{Child, Command, Output};

/// The `terrace` binary with these arguments.
pub fn terrace(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_terrace"));
    command.args(args);
    command
}

/// Returns whether a command is installed; if not, prints that the test skips it.
pub fn has(command: &str) -> bool {
    let search = format!("command -v {command}");
    let found = Command::new("sh").args(["-c", &search]).output().expect("sh runs").status.success();
    if !found {
        println!("left out: {command} is not installed");
    }
    found
}

/// Runs a command, which must succeed, and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let text = printed(&output);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// Returns the output of a command: stdout, then stderr.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A child process that is killed on drop.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
