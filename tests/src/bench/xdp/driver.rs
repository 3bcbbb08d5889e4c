//! Timing a program: the driver program calls it over and over in one BPF_PROG_TEST_RUN, each time with the frame of the
//! next flow.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use relay_bench_ebpf as contract;
use relay_bench_ebpf::{BATCH, Flow, Frame, State, TIMES_MAX};
use zerocopy::FromZeros as _;

use super::{relay::lines, traffic::Traffic};
use crate::bench::stats::Samples;

/// Batches at the beginning of a call that are not counted: caches and branch predictors have to learn.
const WARM_UP: u64 = 4;

/// The driver, with the traffic that it sends.
pub struct Driver {
    ebpf: Ebpf,
    contender: ProgramArray<MapData>,
    state: Array<MapData, State>,
    times: Array<MapData, u64>,
    frame: Vec<u8>,
    output: Vec<u8>,
    runs: u64,
}

/// What a driver sends.
pub struct Sending {
    /// The first frame.
    pub first: Vec<u8>,
    /// What all of them have.
    pub frame: Frame,
    /// What each has of its own; a power of two of them.
    pub flows: Vec<Flow>,
    /// How many lines `reflmiss` has.
    pub lines: u32,
}

/// What came of a single run.
pub struct Ran<'a> {
    /// The verdict.
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: &'a [u8],
}

impl Driver {
    /// Loads the benchmark's programs and the traffic.
    pub fn load(object: &[u8], traffic: &Traffic) -> Result<Self> {
        let order = traffic.order();
        let (frame, flow) = traffic.sent_template();
        let flows = order.iter().map(|&session| flow(session)).collect();
        let first = traffic.sent(order[0], 0);
        Self::sending(object, Sending { first, frame, flows, lines: lines(traffic.scenario.sessions) })
    }

    /// Loads the benchmark's programs, to send these frames.
    pub fn sending(object: &[u8], Sending { first, frame, flows, lines }: Sending) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(contract::FLOWS, flows.len() as u32).map_max_entries(contract::LINES, lines);
        let mut ebpf = loader.load(object).context("load the benchmark's programs (root is needed)")?;
        for name in ["driver", "empty", "reflect", "reflmiss"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("verify the program `{name}`"))?;
        }
        let mut frames: Array<_, Frame> = take(&mut ebpf, contract::FRAMES)?.try_into()?;
        frames.set(contract::SENT, frame, 0)?;
        let mut map: Array<_, Flow> = take(&mut ebpf, contract::FLOWS)?.try_into()?;
        (0..).zip(&flows).try_for_each(|(at, flow)| map.set(at, flow, 0))?;
        let mut state: Array<_, State> = take(&mut ebpf, contract::STATE)?.try_into()?;
        let flows_mask = flows.len() as u64 - 1;
        state.set(0, State { flows_mask, lines: lines.into(), ..State::new_zeroed() }, 0)?;
        Ok(Self {
            contender: take(&mut ebpf, contract::CONTENDER)?.try_into()?,
            state,
            times: take(&mut ebpf, contract::TIMES)?.try_into()?,
            frame: first,
            output: vec![0; 4096],
            runs: 0,
            ebpf,
        })
    }

    /// The descriptor of one of the benchmark's own programs.
    pub fn own(&mut self, name: &str) -> Result<ProgramFd> {
        Ok(program(&mut self.ebpf, name)?.fd()?.try_clone()?)
    }

    /// Starts again with the first flow, and calls this program from now on.
    pub fn call(&mut self, contender: &ProgramFd) -> Result<()> {
        self.contender.set(0, contender, 0).context("set the program to be called")?;
        let state = self.state.get(&0, 0)?;
        Ok(self.state.set(0, State { next: 0, ..state }, 0)?)
    }

    /// Runs it once.
    pub fn once(&mut self) -> Result<Ran<'_>> {
        let (verdict, len) = self.run(1)?;
        Ok(Ran { verdict, frame: &self.output[..len] })
    }

    /// Runs it in so many batches, and gives the mean ns of a run for each.
    pub fn time(&mut self, batches: u64) -> Result<Samples> {
        let batches = batches.clamp(1, u64::from(TIMES_MAX) - WARM_UP - 1) + WARM_UP;
        let state = self.state.get(&0, 0)?;
        self.state.set(0, State { left: 0, notes: 0, ..state }, 0)?;
        self.run(batches * BATCH + 1)?;
        let notes = (WARM_UP..=batches).map(|at| self.times.get(&(at as u32), 0));
        let notes = notes.collect::<Result<Vec<_>, _>>()?;
        let values = notes.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / BATCH as f64).collect();
        Ok(Samples { values })
    }

    /// How many runs the last call was.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    fn run(&mut self, repeat: u64) -> Result<(u32, usize)> {
        let before = self.state.get(&0, 0)?;
        let driver: &Xdp = self.ebpf.program("driver").context("no program `driver`")?.try_into()?;
        let result = driver.test_run(TestRunOptions {
            data_in: Some(&self.frame),
            data_out: Some(&mut self.output),
            repeat: u32::try_from(repeat)?,
            ..TestRunOptions::default()
        })?;
        let state = self.state.get(&0, 0)?;
        let (runs, failed) = (state.runs - before.runs, state.failed - before.failed);
        ensure!(
            runs == repeat && failed == 0,
            "{repeat} runs: {runs} counted, {failed} failed in the driver"
        );
        self.runs = runs;
        Ok((result.return_value, result.data_size_out as usize))
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program `{name}`"))?.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name}"))
}
