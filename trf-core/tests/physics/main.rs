//! Physics against golden results, real plans and PyMedPhys.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic, and says what it skips"
)]

mod anywhere;
mod check;
mod data;
mod delivery;
mod gamma;
mod made;
mod metersetmap;
mod npz;
mod peer;
mod rt_beams;
mod rtplan;
