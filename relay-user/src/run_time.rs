//! What the XDP program costs, measured by the kernel on demand.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use crate::{clock, program::PROGRAM};

/// How often a program ran in a time, and how long that took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunTime {
    /// The kernel's number for it.
    pub id: u32,
    /// Its name.
    pub program: String,
    /// How long it was measured, in seconds.
    pub seconds: f64,
    /// How often it ran, on all CPUs.
    pub runs: u64,
    /// How long that took, on all CPUs together.
    pub nanoseconds: u64,
}

/// Has the kernel measure all XDP programs of wgrelay's on this host for a while. It takes CAP_SYS_ADMIN.
pub async fn run_times(duration: Duration) -> Result<Vec<RunTime>> {
    // The kernel measures as long as this is open.
    let _measuring =
        enable_stats(Stats::RunTime).context("have the kernel measure BPF programs: run this as root")?;
    let mut programs = Vec::new();
    for info in loaded_programs() {
        let info = info.context("list the BPF programs")?;
        if info.name_as_str() == Some(PROGRAM) {
            programs.push((info.id(), info.fd().context("open a BPF program")?));
        }
    }
    if programs.is_empty() {
        bail!("no XDP program of wgrelay's is loaded on this host");
    }
    let began = clock::now();
    let before: Vec<(u64, u64)> = programs.iter().map(|(_, fd)| ran(fd.as_fd())).collect::<Result<_>>()?;
    tokio::time::sleep(duration).await;
    let seconds = clock::now().saturating_sub(began).as_secs_f64();
    programs
        .iter()
        .zip(before)
        .map(|((id, fd), before)| {
            let (runs, nanoseconds) = ran(fd.as_fd())?;
            let (runs, nanoseconds) = (runs - before.0, nanoseconds - before.1);
            Ok(RunTime { id: *id, program: PROGRAM.to_owned(), seconds, runs, nanoseconds })
        })
        .collect()
}

/// How often a program has run while it was measured, and for how many nanoseconds.
fn ran(program: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let path = format!("/proc/self/fdinfo/{}", program.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse::<u64>().ok())
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok((value("run_cnt")?, value("run_time_ns")?))
}
