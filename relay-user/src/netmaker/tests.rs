//! The source against a stand-in server: axum, with answers in the shapes of three versions of Netmaker.

mod following;
mod meshes;
mod server;
