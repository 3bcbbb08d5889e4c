//! The attack corpus: builds what it needs and starts it, or sees what it says without a defence.

mod copy;
#[path = "../../tests/src/attack/defences.rs"]
mod defences;
mod without;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use self::defences::{DEFENCES, Defence};
use crate::{
    build,
    process::replace,
    setup::{self, Part, Tools},
};

/// Which attacks, and how it is told.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Only this attack; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Attack nothing: show what must hold, and what sees to that
    #[arg(long)]
    list: bool,
    /// Switch this defence off in a copy of the source, and see that its attacks succeed; may be given several times, and
    /// `all` is each of them
    #[arg(long, value_name = "DEFENCE", value_parser = choices(), conflicts_with_all = ["only", "list"])]
    without: Vec<String>,
}

/// In place of a defence's name: each of them.
const ALL: &str = "all";

fn choices() -> clap::builder::PossibleValuesParser {
    DEFENCES.iter().map(|defence| defence.name).chain([ALL]).collect::<Vec<_>>().into()
}

/// Attacks. It needs root.
///
/// # Errors
/// If something can't be built, or an attack is not stopped, or (without a defence) one still is.
pub fn run(workspace: &Path, arguments: &Arguments) -> Result<()> {
    if arguments.without.is_empty() {
        return replace(&mut command(workspace, arguments)?);
    }
    let chosen =
        |defence: &&Defence| arguments.without.iter().any(|name| name == defence.name || name == ALL);
    without::run(workspace, DEFENCES.iter().filter(chosen), arguments.json)
}

/// Builds what the corpus needs, and gives the command that runs it.
///
/// # Errors
/// If something can't be built.
pub fn command(workspace: &Path, arguments: &Arguments) -> Result<Command> {
    let (tools, corpus) = corpus(workspace)?;
    build::object(workspace, &tools)?;
    let wgrelay = build::host("wgrelay", false)?;
    let mut command = Command::new(corpus);
    command.env("WGRELAY_BIN", wgrelay);
    let flags = [(arguments.json, "--json"), (arguments.list, "--list")];
    command.args(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag));
    command.args(arguments.only.iter().flat_map(|name| ["--only", name]));
    Ok(command)
}

/// Builds the corpus, with all but the relay that it attacks.
fn corpus(workspace: &Path) -> Result<(Tools, PathBuf)> {
    let tools = setup::setup(workspace, &[Part::Bpf, Part::Lab])?;
    build::bench_object(workspace, &tools)?;
    Ok((tools, build::host("attack", false)?))
}
