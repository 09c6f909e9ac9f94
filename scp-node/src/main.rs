//! The `scp-node` command.

fn main() {}
