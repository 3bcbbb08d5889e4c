//! `cargo xtask bench`: the relay and what it is compared with, side by side.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use relay_tests::{
    bench::{
        Effort,
        machine::Machine,
        report::{Part, Report, page, picture, tables},
    },
    wait::now,
};

/// Measure the relay and what it is compared with.
///
/// Needs root. Touches nothing outside of its own namespaces.
#[derive(Parser)]
struct Arguments {
    /// The benchmark's BPF object file
    #[arg(long, required_unless_present = "from")]
    programs: Option<PathBuf>,
    /// Under two minutes
    #[arg(long)]
    short: bool,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Only this part; may be given several times
    #[arg(long)]
    only: Vec<Part>,
    /// Write the result into benchmarks.md and benchmarks.svg of this directory
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "only")]
    write: Option<PathBuf>,
    /// Measure nothing: take what an earlier run printed with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["short", "only"])]
    from: Option<PathBuf>,
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
    let report = match (&arguments.from, &arguments.programs) {
        (Some(file), _) => read(file)?,
        (None, Some(programs)) => measure(arguments, programs)?,
        (None, None) => unreachable!("clap wants one of them"),
    };
    if let Some(directory) = &arguments.write {
        write(&report, directory)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(())
}

fn measure(arguments: &Arguments, programs: &Path) -> Result<Report> {
    let effort = if arguments.short { Effort::Short } else { Effort::Full };
    let object = fs::read(programs)
        .with_context(|| format!("read {}: run `cargo xtask bench`, which builds it", programs.display()))?;
    let mut report = Report { machine: Machine::this(), short: arguments.short, ..Report::default() };
    for &part in Part::value_variants() {
        if arguments.only.is_empty() || arguments.only.contains(&part) {
            let start = now();
            report.measure(part, &object, effort, &|text| eprintln!("{text}"))?;
            eprintln!("{part:?}: {:.1} s", start.elapsed().as_secs_f64());
            println!("\n{}", tables::of_part(&report, part));
        }
    }
    if let Some(cost) = &report.net_cost {
        println!("\n{}", tables::net_cost(cost));
    }
    Ok(report)
}

/// What an earlier run printed: its last line.
fn read(file: &Path) -> Result<Report> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let last = text.trim_end().lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .with_context(|| format!("{} ends in no result of `cargo xtask bench --json`", file.display()))
}

fn write(report: &Report, directory: &Path) -> Result<()> {
    let file = directory.join("benchmarks.md");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let text = page::updated(&text, report).with_context(|| format!("update {}", file.display()))?;
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    if let Some(cost) = &report.net_cost {
        let file = directory.join("benchmarks.svg");
        fs::write(&file, picture::svg(report, cost)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}
