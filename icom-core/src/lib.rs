//! Elekta iCom: frames, items, snapshots, deliveries, journal, archive, listener.
//!
//! ```text
//! socket -> listener -> memory -> journal -> derivation: frame -> snapshot (live)
//!                                                             -> session  (archive, index)
//! ```
//!
//! Pure: [`frame`], [`item`], [`snapshot`], [`session`], [`delivery`]. They take bytes and times.

mod error;
pub mod encode;
pub mod frame;
pub mod item;
pub mod snapshot;

pub use error::{Error, Result};
