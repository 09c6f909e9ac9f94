//! The TRF job as the service and the commands run it: [`collect`] gets records from the linacs' shares, [`indexing`] finds out whose they
//! are, [`sync`] does both, [`schedule`] does it every night, [`report`] keeps what a run did.

pub mod collect;
pub mod indexing;
pub mod report;
pub mod schedule;
pub mod sync;
pub mod treatments;
mod turn;

/// What the board calls the records that a person must decide.
pub const REVIEW_PART: &str = "TRF review";
