//! The Storage SCP: who may connect, what each message does, and how it ends in order.
//!
//! Threads: [`run`] accepts and negotiates on the caller's runtime; an admitted association moves to a thread of its own,
//! where it may block on the disk without anyone else noticing. `stream` knows bytes and PDUs but no messages,
//! `association` messages but no files, [`crate::images::Store`] files but no sockets.

pub(crate) mod ack;
mod admission;
mod association;
mod descriptors;
mod listener;
mod patience;
mod status;
mod stream;
mod waiting;

pub use descriptors::raise_descriptor_limit;
pub use listener::{Counters, bind, run, run_counted};
