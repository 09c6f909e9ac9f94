//! Simulators, and the tests that cross crates or need a peer.

#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a clinic that cannot be made fails the test that needs it"
)]
pub mod clinic;
#[expect(clippy::unwrap_used, reason = "a disk that cannot be made fails the test that needs it")]
pub mod disk;
#[expect(clippy::unwrap_used, reason = "a node that cannot be started fails the test that needs it")]
pub mod node;
#[expect(clippy::unwrap_used, reason = "a peer that cannot be set up fails the test that needs it")]
pub mod peers;
pub mod sender;
#[expect(clippy::unwrap_used, reason = "a site that cannot be set up fails the test that needs it")]
pub mod site;
#[expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a server that breaks fails the test that needs it"
)]
pub mod tds;
#[expect(clippy::unwrap_used, reason = "zips of tests are made in memory")]
pub mod zips;
