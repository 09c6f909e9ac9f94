//! The TRF job as the service and the commands run it: [`collect`] gets records from the linacs' shares, [`report`] keeps what a run did.

pub mod collect;
pub mod report;
