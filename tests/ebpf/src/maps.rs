//! The maps. The loader says how large those are that have one entry here.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, ProgramArray},
};
use relay_bench_ebpf::{Arrived, BUCKETS, Flow, Frame, Line, Pace, State, TIMES_MAX};

#[map]
pub static STATE: Array<State> = Array::with_max_entries(1, 0);

#[map]
pub static FRAMES: Array<Frame> = Array::with_max_entries(2, 0);

#[map]
pub static FLOWS: Array<Flow> = Array::with_max_entries(1, 0);

#[map]
pub static EXPECTED: Array<Flow> = Array::with_max_entries(1, 0);

#[map]
pub static TIMES: Array<u64> = Array::with_max_entries(TIMES_MAX, 0);

#[map]
pub static CONTENDER: ProgramArray = ProgramArray::with_max_entries(1, 0);

#[map]
pub static LINES: Array<Line> = Array::with_max_entries(1, 0);

#[map]
pub static ARRIVED: PerCpuArray<Arrived> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static PACE: Array<Pace> = Array::with_max_entries(1, 0);

#[map]
pub static LATENCIES: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUCKETS, 0);
