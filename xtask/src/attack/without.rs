//! A row of the corpus counts only if it fails without its defence: this tries it.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{copy::Copy, corpus, defences::Defence};

/// What came of an attack on a relay without a defence.
struct Trial {
    defence: &'static str,
    attack: &'static str,
    result: &'static str,
    evidence: String,
}

const FAILS: &str = "fails without it";

/// Tries the attacks of these defences, each defence switched off in turn, and shows what came of it.
///
/// # Errors
/// If one can't be tried, or an attack is stopped for all that.
pub fn run(workspace: &Path, defences: impl Iterator<Item = &'static Defence>, json: bool) -> Result<()> {
    let (tools, corpus) = corpus(workspace)?;
    let mut copy = Copy::of(workspace)?;
    let mut trials = Vec::new();
    println!("{:<24} {:<24} {:<17} evidence", "defence", "attack", "result");
    for defence in defences {
        eprintln!("==> off: {}", defence.what);
        let wgrelay = copy.build_without(defence, &tools)?;
        for trial in attack(&corpus, &wgrelay, defence)? {
            println!("{:<24} {:<24} {:<17} {}", trial.defence, trial.attack, trial.result, trial.evidence);
            trials.push(trial);
        }
    }
    let kept = trials.iter().filter(|trial| trial.result != FAILS).count();
    println!("\n{} of {} attacks succeed without their defence", trials.len() - kept, trials.len());
    if json {
        let trials = trials.iter().map(|Trial { defence, attack, result, evidence }| {
            json!({ "defence": defence, "attack": attack, "result": result, "evidence": evidence })
        });
        println!("{}", json!({ "ok": kept == 0, "trials": trials.collect::<Vec<_>>() }));
    }
    match kept {
        0 => Ok(()),
        _ => bail!("{kept} attacks do not show what their defence is for"),
    }
}

/// Runs the attacks that a defence stops.
fn attack(corpus: &Path, wgrelay: &Path, defence: &'static Defence) -> Result<Vec<Trial>> {
    let mut command = Command::new(corpus);
    command.env("WGRELAY_BIN", wgrelay).arg("--json");
    command.args(defence.rows.iter().flat_map(|row| ["--only", row]));
    // What a lab that fails has to say is for whoever looks at the reason.
    let output = command.stderr(Stdio::inherit()).output().context("start the corpus")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(text.trim_end().lines().last().unwrap_or_default())
        .with_context(|| format!("the corpus ends in no report: {text}"))?;
    let outcomes = report["attacks"].as_array().context("a report has attacks")?;
    defence.rows.iter().map(|row| trial(defence.name, row, outcomes)).collect()
}

fn trial(defence: &'static str, attack: &'static str, outcomes: &[Value]) -> Result<Trial> {
    let outcome = outcomes.iter().find(|outcome| outcome["name"] == attack);
    let outcome = outcome.with_context(|| format!("the corpus does not tell of {attack}"))?;
    let result = match outcome["ending"].as_str() {
        Some("broken") => FAILS,
        Some("held") => "STILL HOLDS",
        _ => "ERROR",
    };
    let evidence = outcome["evidence"].as_str().unwrap_or_default().to_owned();
    Ok(Trial { defence, attack, result, evidence })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_attack_that_succeeds_shows_what_a_defence_is_for() {
        let outcomes = [
            json!({ "name": "a", "ending": "broken", "evidence": "3 sent on" }),
            json!({ "name": "b", "ending": "held", "evidence": "" }),
            json!({ "name": "c", "ending": "unknown", "evidence": "no relay" }),
        ];
        let result = |attack| trial("d", attack, &outcomes).map(|trial| trial.result);
        assert_eq!(result("a").unwrap(), FAILS);
        assert_eq!((result("b").unwrap(), result("c").unwrap()), ("STILL HOLDS", "ERROR"));
        assert!(result("x").is_err(), "an attack that was not tried");
    }
}
