//! The server as its clients see it, by a clock that the tests turn.

mod allocations;
mod attacks;
mod peers;
mod streams;
mod vectors;
mod world;
