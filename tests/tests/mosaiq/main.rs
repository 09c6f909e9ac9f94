//! Mosaiq: the client and the commands against our TDS server, with PyMedPhys and pymssql as its peers.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic, and says what it skips")]

mod client;
mod commands;
mod four_sources;
#[path = "../../../trf-core/tests/physics/made.rs"]
mod made;
mod peers;
mod support;
