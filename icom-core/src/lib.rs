//! Elekta iCom: frames, items, snapshots, deliveries, journal, archive, listener.
//!
//! ```text
//! socket -> listener -> memory -> journal -> derivation: frame -> snapshot (live)
//!                                                             -> session  (archive, index)
//! ```
//!
//! Pure: [`frame`], [`item`], [`snapshot`], [`session`], [`delivery`]. They take bytes and times.

pub mod delivery;
pub mod encode;
mod error;
pub mod frame;
pub mod item;
pub mod session;
pub mod snapshot;

pub use error::{Error, Result};
