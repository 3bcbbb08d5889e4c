//! The XDP program against the oracle: random frames, of which none may surprise it.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    build,
    setup::{self, Part},
};

/// Frames of a run in the tier `oracle`.
const FRAMES: u64 = 1_000_000;

/// How long to run, and what decides the frames.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many frames to run
    #[arg(long, default_value_t = FRAMES)]
    frames: u64,
    /// Decides all frames and tables, so that a run can be made again; random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// End after so many seconds, if the frames take longer
    #[arg(long)]
    seconds: Option<u64>,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { frames: FRAMES, seed: None, seconds: None }
    }
}

/// Builds what a run needs, and gives the command that makes it. It needs root.
pub fn command(workspace: &Path, arguments: &Arguments) -> Result<Command> {
    let tools = setup::setup(workspace, &[Part::Bpf])?;
    build::object(workspace, &tools)?;
    let mut command = Command::new(build::host("fuzz", true)?);
    command.args(["--frames", &arguments.frames.to_string()]);
    for (name, value) in [("--seed", arguments.seed), ("--seconds", arguments.seconds)] {
        if let Some(value) = value {
            command.args([name, &value.to_string()]);
        }
    }
    Ok(command)
}
