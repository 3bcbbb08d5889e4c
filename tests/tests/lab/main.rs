//! wgrelay between real WireGuard hosts, in network namespaces.

mod between_families;
mod coming_back;
mod doctor;
mod failures;
mod fleet;
mod joining;
mod members;
mod neighbours;
mod package;
mod path_mtu;
mod premises;
mod rates;
mod restart;
mod seeing;
mod talking;
mod turn;
mod uplinks;
