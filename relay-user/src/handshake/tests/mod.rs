//! Each rule as a test: hand-made messages where a rule is about one message, simulated hosts with a real WireGuard
//! implementation where it is about a conversation.

mod crafted;
mod world;

mod budgets;
mod challenges;
mod conversations;
mod endpoints;
mod limits;
mod permissions;
mod proofs;
mod search;
mod torture;
mod wire;
