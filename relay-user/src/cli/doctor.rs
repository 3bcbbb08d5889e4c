//! `wgrelay doctor`.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;
use relay_user::doctor::{Findings, Level, examine, gather::gather};

/// Look for what would keep a relay on this host from working, or from working well, and say what to do about it.
///
/// Nothing is changed, and a relay that runs goes on. Ends with status 0 if all is well, 1 if there are warnings, and 2 if
/// there are errors.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The configuration file; /etc/wgrelay/relay.toml if there is one.
    #[arg(value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON: a list of objects with `check`, `level`, `what` and `remedy`.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let findings = examine(&gather(self.config.as_deref()).await?);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&findings)?);
        } else {
            print!("{}", text(&findings));
        }
        Ok(match findings.worst() {
            Level::Ok => ExitCode::SUCCESS,
            Level::Warning => ExitCode::from(1),
            Level::Error => ExitCode::from(2),
        })
    }
}

/// A line for each finding, and one below it for its remedy.
fn text(findings: &Findings) -> String {
    let mut out = String::new();
    for finding in findings.iter() {
        writeln!(out, "{:<9}{}: {}", finding.level.label(), finding.check, finding.what)
            .expect("a String takes it");
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:9}-> {remedy}", "").expect("a String takes it");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_line_with_its_remedy_below() {
        let mut findings = Findings::default();
        findings.ok("kernel", "is young enough");
        findings.add("interface eth0", Level::Error, "is down", "ip link set dev eth0 up");
        let shown = "ok       kernel: is young enough\n\
                     error    interface eth0: is down\n         -> ip link set dev eth0 up\n";
        assert_eq!(text(&findings), shown);
        assert_eq!(findings.worst(), Level::Error);
    }
}
