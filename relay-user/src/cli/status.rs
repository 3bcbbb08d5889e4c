//! `wgrelay status`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use relay_user::{
    run_time::{self, RunTime},
    status::Status,
};

use super::{
    asking::Asking,
    show::{self, table},
};

/// Show the running relay: where it is attached, how many hosts and sessions, packets by reason.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Show instead what the XDP program costs: how often it runs and how long, measured for so many seconds.
    ///
    /// The kernel measures it only meanwhile, since that costs some time itself. Of this host alone, as root.
    #[arg(long, value_name = "SECONDS", conflicts_with = "api", value_parser = clap::value_parser!(u64).range(1..=3600))]
    bpf_stats: Option<u64>,
}

impl Arguments {
    pub(crate) async fn run(self) -> Result<()> {
        match self.bpf_stats {
            None => self.asking.show::<Status>("/v1/status", show::status).await,
            Some(seconds) => {
                let times = run_time::run_times(Duration::from_secs(seconds)).await?;
                self.asking.print(&times, |times| run_times(times))
            }
        }
    }
}

fn run_times(times: &[RunTime]) -> String {
    let rows = times.iter().map(|time| {
        [
            time.id.to_string(),
            time.program.clone(),
            format!("{:.0}", time.runs as f64 / time.seconds),
            format!("{:.0}", time.nanoseconds as f64 / time.runs.max(1) as f64),
            format!("{:.2} %", time.nanoseconds as f64 / 1e7 / time.seconds),
        ]
    });
    table(["id", "program", "runs/s", "ns/run", "of one CPU"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_for_a_second_and_for_a_run() {
        let time =
            RunTime { id: 7, program: "wgrelay".into(), seconds: 2.0, runs: 1000, nanoseconds: 50_000_000 };
        let shown = run_times(&[time]);
        let words: Vec<&str> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words, ["7", "wgrelay", "500", "50000", "2.50", "%"]);
    }
}
