//! The node of the medical physicist: receives, asks for, fetches and files RT Images over DICOM, listens to linacs over iCom, collects
//! their TRF log files, runs the site's commands when something came, and shows on a page how all of it is.
//!
//! Without the `server` feature this is the library that qatrack-ext links: settings, catalog, archive queries, the
//! receiver, hooks, iCom. With it come the command line, the log files, the pages, the demo and its simulated archive.

#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod demo;
pub mod dimse;
pub mod error;
pub mod fetch;
pub mod hooks;
pub mod icom;
pub mod images;
pub mod names;
pub mod scp;
pub mod scu;
pub mod settings;
#[cfg(feature = "server")]
pub mod trf;
pub mod web;

pub use error::{Error, Result};
