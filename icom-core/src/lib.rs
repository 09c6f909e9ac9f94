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
mod archivist;
pub mod delivery;
mod derive;
pub mod emulate;
pub mod encode;
mod error;
pub mod files;
pub mod frame;
mod handover;
pub mod index;
pub mod inspect;
pub mod item;
pub mod journal;
mod listener;
pub mod live;
mod pass_through;
pub mod reindex;
mod scribe;
pub mod script;
pub mod service;
pub mod session;
pub mod settings;
pub mod snapshot;
mod spool;
pub mod status;

pub use error::{Error, Result};
pub use service::Service;
pub use settings::{LinacSettings, ListenerSettings};
