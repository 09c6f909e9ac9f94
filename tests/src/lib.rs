//! Simulators, and the tests that cross crates or need a peer.
