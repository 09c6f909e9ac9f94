//! Elekta iCom: frames, items, snapshots, deliveries, journal, archive, listener.
//!
//! ```text
//! socket -> listener -> memory -> journal -> memory -> derivation: frame -> snapshot -> live file
//!                                                                        -> session  -> archive, index
//! ```
//!
//! Pure, taking bytes and times: [`frame`], [`item`], [`snapshot`], [`session`], [`delivery`], [`encode`], [`script`]. The
//! socket loop knows no formats. Files and SQLite are the only interface to whoever reads.

pub mod archive;
pub mod delivery;
pub mod emulate;
pub mod encode;
mod error;
pub mod files;
pub mod frame;
mod handover;
pub mod index;
pub mod item;
pub mod journal;
pub mod live;
pub mod script;
pub mod session;
pub mod settings;
pub mod snapshot;

pub use error::{Error, Result};
pub use settings::{LinacSettings, ListenerSettings};
