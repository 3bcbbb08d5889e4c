//! CPU time of everything that runs, over all CPUs.
//!
//! A relay's work is done wherever the kernel does it: in the sender's system call, in a soft interrupt, in a thread. So
//! what counts is how long the CPUs had something to do. /proc/stat tells that in steps of 10 ms, which is 2 % of
//! half a second. Instead every CPU gets a thread that runs only when nothing else wants to (SCHED_IDLE): all the time
//! that it did not get was somebody's work. It also keeps the CPUs awake, so no contender pays for waking them.
//!
//! On a machine that does other things too, that is too much. So the time of the tasks that are known to take part is told
//! as well: this process, the relay's, and the kernel's threads for soft interrupts. It leaves out what the kernel does
//! in the name of others; on a quiet machine the two agree.

use std::{
    os::unix::thread::JoinHandleExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::{affinity::pin, wait::now};

/// One idle thread for each CPU that this process may use.
#[derive(Debug)]
pub struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    clocks: Vec<libc::clockid_t>,
    /// Of the kernel's threads for soft interrupts.
    kernel: Vec<libc::clockid_t>,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Time on the clock.
    pub wall: Duration,
    /// CPU time, all CPUs together.
    pub busy: Duration,
    /// The same of the tasks that took part.
    pub tasks: Duration,
}

impl Spinners {
    /// Starts them.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn start() -> Result<Self> {
        let allowed = sched_getaffinity(None).context("ask which CPUs there are")?;
        let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let kernel = soft_interrupt_threads().into_iter().map(process_clock).collect();
        let mut this = Self { stop, threads: Vec::new(), clocks: Vec::new(), kernel };
        for cpu in cpus {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let stop = this.stop.clone();
            let thread = std::thread::spawn(move || {
                let prepared = pin(cpu).and_then(|_| become_idle());
                let failed = prepared.is_err();
                let _ = ready.send(prepared);
                while !failed && !stop.load(Ordering::Relaxed) {
                    // No `spin_loop`: a hypervisor may take the CPU away from whoever spins in the open.
                    for n in 0..1_000_u32 {
                        std::hint::black_box(n);
                    }
                }
            });
            let mut clock = 0;
            // SAFETY: the thread is not joined, so its handle is valid; the clock is written to.
            let error = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
            this.threads.push(thread);
            this.clocks.push(clock);
            is_ready.recv().context("an idle thread ended")??;
            anyhow::ensure!(error == 0, "no CPU clock of a thread: error {error}");
        }
        Ok(this)
    }

    /// Does something and tells what it took. `processes` take part besides this one.
    pub fn measure<T>(&self, processes: &[u32], work: impl FnOnce() -> T) -> (T, Usage) {
        let tasks: Vec<_> = processes.iter().copied().map(process_clock).chain(self.kernel.clone()).collect();
        let read = || (now(), sum(&self.clocks), sum(&tasks) + clock_time(libc::CLOCK_PROCESS_CPUTIME_ID));
        let (start, idle_before, tasks_before) = read();
        let result = work();
        let (end, idle, tasks) = read();
        let (wall, idle) = (end - start, idle.saturating_sub(idle_before));
        let capacity = wall * u32::try_from(self.clocks.len()).expect("there are few CPUs");
        let tasks = tasks.saturating_sub(tasks_before).saturating_sub(idle);
        (result, Usage { wall, busy: capacity.saturating_sub(idle), tasks })
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Gives this thread the least right to run.
fn become_idle() -> Result<()> {
    // SAFETY: all zeroes is a valid parameter: priority 0.
    let parameter: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread, and the parameter is read only.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) };
    anyhow::ensure!(done == 0, "make a thread idle: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The CPU clock of a process: all of its threads, those that have ended too.
fn process_clock(process: u32) -> libc::clockid_t {
    let mut clock = 0;
    // SAFETY: the clock is written to.
    let error = unsafe { libc::clock_getcpuclockid(process.cast_signed(), &raw mut clock) };
    assert_eq!(error, 0, "process {process} has a CPU clock: has it ended?");
    clock
}

fn soft_interrupt_threads() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let name = |process: &u32| std::fs::read_to_string(format!("/proc/{process}/comm"));
    numbers.filter(|process| name(process).is_ok_and(|name| name.starts_with("ksoftirqd/"))).collect()
}

fn sum(clocks: &[libc::clockid_t]) -> Duration {
    clocks.iter().map(|&clock| clock_time(clock)).sum()
}

fn clock_time(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time is written to.
    let done = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(done, 0, "the CPU clock of a live thread can be read");
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("less than a second"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What else runs adds to it, so there is no upper bound to test.
    #[test]
    fn work_is_busy() {
        let spinners = Spinners::start().unwrap();
        let work = Duration::from_millis(50);
        let ((), usage) = spinners.measure(&[], || {
            let start = now();
            while start.elapsed() < work {
                std::hint::black_box(0);
            }
        });
        assert!(usage.wall >= work && usage.busy >= work / 2 && usage.tasks >= work / 10, "{usage:?}");
    }
}
