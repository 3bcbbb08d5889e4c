//! The `wgrelay` command.

fn main() {}
