//! scp.
