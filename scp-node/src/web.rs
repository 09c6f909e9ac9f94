//! What the service is doing, told: `/` for people, `/metrics` for Prometheus, `/healthz` for whoever watches services.
//!
//! Input: a [`Board`] on which each part of the service posts its state, and what receiver and listener count. Output: pages over HTTP/1.1.
//! Trust in clients: none; requests change nothing, their number and time are bounded, and no page names a patient.
//! Unsupported: TLS and logins. The default address is this computer's own; a reverse proxy may show it further.

pub mod board;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod probe;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod status;

pub use board::{Board, Level, Post};
#[cfg(feature = "server")]
pub use server::{Watched, bind, run};
