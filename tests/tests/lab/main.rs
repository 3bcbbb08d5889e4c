//! wgrelay between real WireGuard hosts, in network namespaces.

mod coming_back;
mod failures;
mod members;
mod premises;
mod seeing;
mod talking;
