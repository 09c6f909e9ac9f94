//! scu.
