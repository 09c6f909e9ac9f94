//! DIMSE messages: command sets and status codes. No I/O. Source: PS3.7.

pub mod command;
pub mod status;

pub use command::{Command, CommandField, Reply};
pub use status::Status;
