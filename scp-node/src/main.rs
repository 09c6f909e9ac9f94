//! The `scp-node` command.

fn main() -> std::process::ExitCode {
    scp_node::cli::main()
}
