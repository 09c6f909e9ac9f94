//! Decoding: real records, edge cases, written records, and PyMedPhys on the same files.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test whose data are not as it says fails"
)]

mod common;
mod differential;
mod edge_cases;
mod item_table;
#[cfg(feature = "parquet")]
mod parquet;
mod real;
mod round_trip;
