//! The benchmark: builds what it needs and starts it.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    build,
    setup::{self, Part},
};

/// What to measure, and how it is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Under two minutes: fewer rounds and fewer variations
    #[arg(long)]
    short: bool,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Only this part; may be given several times (`--only help` names them)
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
}

/// Builds what the benchmark needs, and gives the command that runs it. It needs root.
pub fn command(workspace: &Path, arguments: &Arguments) -> Result<Command> {
    let tools = setup::setup(workspace, &[Part::Bpf, Part::Lab])?;
    build::object(workspace, &tools)?;
    let programs = build::bench_object(workspace, &tools)?;
    let wgrelay = build::host("wgrelay", true)?;
    let mut command = Command::new(build::host("bench", true)?);
    command.env("WGRELAY_BIN", wgrelay).arg("--programs").arg(programs);
    command.args(arguments.short.then_some("--short")).args(arguments.json.then_some("--json"));
    for part in &arguments.only {
        command.args(["--only", part]);
    }
    Ok(command)
}
