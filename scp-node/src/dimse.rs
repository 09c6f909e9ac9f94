//! DIMSE messages: command sets, identifiers and status codes. No I/O. Source: PS3.7.

pub mod command;
pub mod identifier;
pub mod identity;
pub mod message;
pub mod status;

pub use command::{Command, CommandField, Reply};
pub use identifier::Identifier;
pub use status::Status;
