//! Elekta TRF records: decoding, Delivery, MetersetMap, RT Plan.
//!
//! The rooms: [`reader`] and [`header`] turn bytes into a [`Record`], [`items`] knows what an item means, [`table`]
//! decodes all columns at once,
//! [`csv`] and `parquet` (a feature) write them down, [`summary`] says what a person asks first, [`writer`] makes records.
//!
//! Input: a `.trf` file as the linac's control system wrote it. Nothing in it is trusted: every length is bounded by a
//! named constant and by the bytes that are there. Numbers in the file are little endian.

#[cfg(feature = "fleet")]
pub mod align;
pub mod check;
#[cfg(feature = "fleet")]
pub mod collect;
pub mod columns;
pub mod csv;
pub mod delivery;
#[cfg(feature = "fleet")]
pub mod diagnostics;
mod digits;
pub mod error;
pub mod gamma;
pub mod header;
#[cfg(feature = "index")]
pub mod index;
pub mod items;
pub mod meterset;
pub mod metersetmap;
#[cfg(feature = "fleet")]
pub mod mosaiq;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod reader;
mod report;
pub mod rtplan;
#[cfg(feature = "fleet")]
pub mod share;
pub mod summary;
pub mod table;
pub mod writer;
#[cfg(feature = "fleet")]
mod zone;

pub use columns::MetersetSource;
pub use delivery::Delivery;
pub use error::{Error, Result};
pub use gamma::Gamma;
pub use header::{Header, Version};
pub use items::ItemPart;
pub use meterset::Meterset;
pub use metersetmap::MetersetMap;
pub use reader::{Column, Record, Warning};
pub use rtplan::RtPlan;
pub use summary::Summary;
pub use table::Table;
#[cfg(feature = "fleet")]
pub use zone::Zone;
