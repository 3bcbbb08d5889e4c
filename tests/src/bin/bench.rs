//! `cargo xtask bench`: the relay and what it is compared with, side by side.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;
use relay_tests::bench::{Effort, latency, machine::Machine, packets, pin_to_a_cpu, programs};

/// Measure the relay and what it is compared with.
///
/// Needs root. Touches nothing outside of its own namespaces.
#[derive(Parser)]
struct Arguments {
    /// The benchmark's BPF object file
    #[arg(long)]
    programs: PathBuf,
    /// Under two minutes
    #[arg(long)]
    short: bool,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Only this part; may be given several times
    #[arg(long)]
    only: Vec<Part>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What a run of a program costs
    Programs,
    /// What a packet costs end to end
    Packets,
    /// How long a packet is on its way
    Latency,
}

fn main() -> ExitCode {
    match perform(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &Arguments) -> Result<()> {
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let effort = if arguments.short { Effort::Short } else { Effort::Full };
    let object = std::fs::read(&arguments.programs).with_context(|| {
        format!("read {}: run `cargo xtask bench`, which builds it", arguments.programs.display())
    })?;
    let mut result = BTreeMap::from([
        ("machine", serde_json::to_value(Machine::this())?),
        ("short", arguments.short.into()),
    ]);
    pin_to_a_cpu()?;
    if wanted(Part::Programs) {
        let rows = programs::run(&object, effort, |text| eprintln!("{text}"))?;
        println!("{}", programs::table(&rows));
        result.insert("programs", serde_json::to_value(rows)?);
    }
    if wanted(Part::Packets) {
        let rows = packets::run(&object, effort, |text| eprintln!("{text}"))?;
        println!("{}", packets::table(&rows));
        result.insert("packets", serde_json::to_value(rows)?);
    }
    if wanted(Part::Latency) {
        let rows = latency::run(&object, effort, |text| eprintln!("{text}"))?;
        println!("{}", latency::table(&rows));
        result.insert("latency", serde_json::to_value(rows)?);
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&result)?);
    }
    Ok(())
}
