//! `echo ARCHIVE`.

use std::process::ExitCode;

use super::{Context, runtime};
use crate::error::{Error, Result};
use crate::scu::Archive;

/// Asks an archive whether it hears us, and what it offers to us.
///
/// Tells apart: host unreachable, port closed, AE title unknown, service not offered; each with what to check.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of an [[archive]] in the settings; the first one when left out.
    archive: Option<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<ExitCode> {
    let settings = context.settings();
    let archive = Archive::new(settings.archive(args.archive.as_deref())?, &settings.node.ae_title);
    let echo = runtime::block_on(context, |cancel| {
        let archive = &archive;
        async move {
            tokio::select! {
                () = cancel.cancelled() => Err(Error::Cancelled),
                echo = archive.echo() => echo,
            }
        }
    })?;
    let printer = context.printer;
    printer.json(&serde_json::json!({
        "archive": archive.settings().name, "peer": archive.peer().to_string(), "echo": echo,
    }));
    let milliseconds = |s: f64| format!("{:.1} ms", s * 1000.0);
    printer.line(format!(
        "{} hears {}: association {}, echo {}",
        archive.peer(),
        settings.node.ae_title,
        milliseconds(echo.associate_s),
        milliseconds(echo.echo_s)
    ));
    let offered = |yes: bool| if yes { "offered" } else { "NOT offered to us" };
    printer.line(format!(
        "finding (C-FIND) is {}, moving (C-MOVE) is {}",
        offered(echo.find),
        offered(echo.move_)
    ));
    if let Some(implementation) = &echo.implementation {
        printer.line(format!("it calls itself {}", implementation.escape_debug()));
    }
    if !(echo.find && echo.move_) {
        printer.note("hint: give our AE title the right to query and retrieve in the archive");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
