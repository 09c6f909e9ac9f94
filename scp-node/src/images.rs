//! Where objects lie, what is known about them, and how they get there.

pub mod layout;
pub mod walk;
