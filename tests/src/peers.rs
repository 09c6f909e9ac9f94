//! Real peers: other people's programs, started for one test, on ports of their own, gone when the test ends.
//!
//! A peer that is not installed makes a test print so and skip; with `REQUIRE_PEERS=1` (set by `tests/run`) it fails.

mod archive;
mod dcmqrscp;
pub mod objects;
mod orthanc;
mod process;
mod qrscp;
mod samba;
mod storescp;

pub use archive::{Destination, LOADER, PeerArchive};
pub use process::{Process, free_port, peer_python, run_tool, tool, until};
pub use samba::{PASSWORD, Samba, Tunnel, USER};
pub use storescp::Storescp;

/// The value if the peer is there; else says that the test is skipped, or fails when peers are required.
pub fn require<T>(peer: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        let required = std::env::var("REQUIRE_PEERS").is_ok_and(|v| v == "1");
        assert!(!required, "{peer} is not installed, and REQUIRE_PEERS=1 forbids to skip");
        eprintln!("SKIPPED: {peer} is not installed");
    }
    found
}
