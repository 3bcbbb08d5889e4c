//! wgrelay between real WireGuard hosts, in network namespaces.

mod failures;
mod members;
mod premises;
mod recovery;
mod seeing;
mod talking;
