//! `cargo xtask fuzz`: the XDP program against the oracle.

use std::process::ExitCode;

use clap::Parser;
use relay_tests::oracle::{Kernel, Plan, run};

/// Run random frames through the XDP program and through an independent model, and compare.
///
/// Needs root. Touches nothing of the machine: nothing is attached or pinned.
#[derive(Parser)]
struct Arguments {
    /// How many frames
    #[arg(long, default_value_t = 1_000_000)]
    frames: u64,
    /// What decides all of them; random if not given
    #[arg(long)]
    seed: Option<u64>,
    /// End after so many seconds, if the frames take longer
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let Arguments { frames, seed, seconds } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let plan = Plan { frames, seed, seconds };
    let result = relay_user::object::object()
        .and_then(Kernel::load)
        .and_then(|mut kernel| run(&mut kernel, plan, |disagreement| println!("\n{disagreement}\n")));
    match result {
        Ok(report) => {
            println!("{report}");
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}
