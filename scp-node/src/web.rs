//! What the service is doing, told.
//!
//! Input: a [`Board`] on which each part of the service posts its state and what it counts. No page names a patient.

pub mod board;

pub use board::{Board, Level, Post};
