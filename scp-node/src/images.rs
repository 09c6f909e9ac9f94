//! Where objects lie, what is known about them, and how they get there.

pub mod head;
pub mod layout;
pub mod walk;
