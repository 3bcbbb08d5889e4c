//! `cargo xtask attack`: the attack corpus, and how each attack ended.

use std::process::ExitCode;

use clap::Parser;
use relay_tests::attack::{Ending, Outcome, ROWS, Row};
use serde::Serialize;

/// Attack a running wgrelay with real packets, from outside and as a member.
///
/// Needs root. All of it stays in network namespaces of its own.
#[derive(Parser)]
struct Arguments {
    /// Only this attack; may be given several times
    #[arg(long, value_name = "NAME", value_parser = names())]
    only: Vec<String>,
    /// Print the result as one JSON object, as the last line
    #[arg(long)]
    json: bool,
    /// Attack nothing: show what must hold, and what sees to that
    #[arg(long)]
    list: bool,
}

fn names() -> clap::builder::PossibleValuesParser {
    ROWS.iter().map(|row| row.name).collect::<Vec<_>>().into()
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    /// All held.
    ok: bool,
    attacks: Vec<Outcome>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let chosen = |row: &&Row| arguments.only.is_empty() || arguments.only.iter().any(|name| name == row.name);
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    if arguments.list {
        rows.iter().for_each(|row| list(row));
        return ExitCode::SUCCESS;
    }
    println!("{:<24} {:<8} {:>8}  evidence", "attack", "result", "time");
    let attacks: Vec<Outcome> = rows.iter().map(|row| attack(row)).collect();
    let ok = attacks.iter().all(|outcome| outcome.ending == Ending::Held);
    let held = attacks.iter().filter(|outcome| outcome.ending == Ending::Held).count();
    println!("\n{held} of {} attacks were stopped", attacks.len());
    if arguments.json {
        let report = Report { ok, attacks };
        println!("{}", serde_json::to_string(&report).expect("the report is plain data"));
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list(row: &Row) {
    println!("{}\n    {}", row.name, row.must_hold);
    row.defences().for_each(|defence| println!("    {}: {}", defence.name, defence.what));
}

fn attack(row: &Row) -> Outcome {
    let outcome = row.run();
    let Outcome { name, ending, seconds, evidence } = &outcome;
    let result = match ending {
        Ending::Held => "ok",
        Ending::Broken => "FAILED",
        Ending::Unknown => "ERROR",
    };
    println!("{name:<24} {result:<8} {seconds:>6.1} s  {evidence}");
    outcome
}
