//! Which treatment a record belongs to: the records of a machine's day against the rows of Mosaiq's TrackTreatment.
//!
//! Input: [`Log`]s (times of the linac's clock) and [`Treatment`]s (times of the server's wall clock), both as they come.
//! Output: an [`Outcome`] per log. Pure: no clock, no database, no file. Nothing is trusted but that rows and logs are of
//! one machine.

mod types;

pub use types::{AlignOptions, Candidate, ClockStep, Day, Drift, Log, Outcome, PartOf, Treatment, Unmatched};
