//! What the fuzz targets share: a relay whose tracker writes into a model of the maps that checks every action, and
//! WireGuard messages whose macs are right, which no fuzzer would ever guess.

pub mod maps;
pub mod message;
pub mod relay;
pub mod world;
