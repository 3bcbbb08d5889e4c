//! The benchmark: builds what it needs and starts it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use clap::ValueEnum as _;

use crate::{
    build,
    setup::{
        self,
        Part::{Bench, Bpf, Lab},
    },
};

#[path = "../../tests/src/bench/report/part.rs"]
mod part;
use part::Part;

/// What to measure, and how it is told.
#[derive(clap::Args)]
pub struct Arguments {
    /// Under two minutes: fewer rounds and fewer variations
    #[arg(long)]
    short: bool,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Only this part; may be given several times
    #[arg(long, value_name = "PART")]
    only: Vec<Part>,
    /// Write the result into docs/benchmarks.md, and its picture
    #[arg(long, conflicts_with = "only")]
    write: bool,
    /// Measure nothing: take what an earlier run printed with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["short", "only"])]
    from: Option<PathBuf>,
}

/// Builds what the benchmark needs, and gives the command that runs it. It needs root.
pub fn command(workspace: &Path, arguments: &Arguments) -> Result<Command> {
    let mut command = if let Some(file) = &arguments.from {
        let mut command = Command::new(build::host("bench", true)?);
        command.arg("--from").arg(file);
        command
    } else {
        let tools = setup::setup(workspace, &[Bpf, Lab, Bench])?;
        build::object(workspace, &tools)?;
        let programs = build::bench_object(workspace, &tools)?;
        let wgrelay = build::host("wgrelay", true)?;
        let mut command = Command::new(build::host("bench", true)?);
        command.env("WGRELAY_BIN", wgrelay).arg("--programs").arg(programs);
        command
    };
    command.args(arguments.short.then_some("--short")).args(arguments.json.then_some("--json"));
    for part in &arguments.only {
        let part = part.to_possible_value().expect("all parts can be named");
        command.args(["--only", part.get_name()]);
    }
    if arguments.write {
        command.arg("--write").arg(workspace.join("docs"));
    }
    Ok(command)
}
