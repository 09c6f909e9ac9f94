//! Elekta TRF records: decoding, Delivery, MetersetMap, RT Plan.

pub mod delivery;
pub mod error;

pub use delivery::Delivery;
pub use error::{Error, Result};
