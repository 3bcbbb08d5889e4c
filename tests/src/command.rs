//! Running programs, to their end or as long as a value lives.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{cleanup, wait::until};

/// A command from one line, split at white space.
pub fn line(text: &str) -> Command {
    let mut words = text.split_whitespace();
    let mut command = program(words.next().expect("a command has a program"));
    command.args(words);
    command
}

/// A command for a program, also of those that only the administrator's PATH has, or that `cargo xtask setup` has put
/// into target/tools.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/bin");
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin:{TOOLS}")).stdin(Stdio::null());
    // A group of its own: Ctrl-C is for us, and we end the others in order.
    command.process_group(0);
    command
}

/// Runs a command to its end and gives what it printed.
///
/// # Panics
/// If it can't be started or fails.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Like [`run`], with `input` as standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &str) -> String {
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    // A program that ends without reading all of it has failed, and says why below.
    let _ = child.stdin.take().expect("standard input is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("wait for a child");
    assert!(output.status.success(), "{command:?} with {input}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program that runs as long as this value lives. What it prints goes to a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its end was seen.
    waited: bool,
    log: PathBuf,
}

impl Process {
    /// Starts a command.
    #[track_caller]
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let _making = cleanup::making();
        let file = File::create(&log).unwrap_or_else(|error| panic!("create {}: {error}", log.display()));
        let both = (file.try_clone().expect("duplicate a file"), file);
        let child = command.stdin(Stdio::null()).stdout(both.0).stderr(both.1).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, waited: false, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far, standard output and error together.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("ask for a child's status");
        self.waited |= status.is_some();
        status
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Panics
    /// If it has not ended after ten seconds.
    #[track_caller]
    pub fn stop(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let log = self.log.clone();
        until(&format!("end of the process that logs to {}", log.display()), Duration::from_secs(10), || {
            self.ended()
        })
    }

    /// Sends a signal, unless its end has been seen. A child that was not waited for keeps its id, so this can't hit another
    /// process.
    pub fn signal(&self, signal: Signal) {
        if !self.waited {
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
