//! Logs of a command that runs for long: to stderr, text or JSON. They hold AE titles, UIDs and hashes, no patients.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::settings::LogSettings;

/// Starts logging; a second start in one process changes nothing.
pub(super) fn start(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.level).unwrap_or_else(|_| EnvFilter::new("info"));
    // It logs what the server says, and SQL Server's errors quote values: names of patients.
    let filter = match "tiberius=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Else a line that cannot be written, as on a full disk, ends the thread that logs it.
        .log_internal_errors(false)
        // As https://no-color.org asks.
        .with_ansi(
            std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        );
    let _ = if settings.json { builder.json().try_init() } else { builder.try_init() };
}
