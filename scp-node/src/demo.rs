//! A simulated Aria for the demo and the tests: a generated Winston-Lutz patient behind C-ECHO, C-FIND and C-MOVE.
//!
//! It plays what is known of Aria's DB Service (read in its documentation and in what its users report; not compared
//! with a real one) and, by [`Faults`], what archives do wrong. It holds invented data only.
//!
//! Unsupported: Patient Root, C-GET, more than one transfer syntax (implicit VR little endian, as Aria sends).

mod archive;
mod conversation;
mod faults;
mod message;
mod mover;
mod patient;
mod phantom;
mod query;

pub use archive::{AriaOptions, Asked, SimulatedAria};
pub use faults::{Faults, Rejection};
pub use patient::{GeneratedPatient, GeneratedPlan, Instance, PatientOptions};
pub use phantom::Phantom;
