//! Async work of a command: one runtime, and Ctrl-C as an order to stop in order.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::{Context, Printer, logging};
use crate::error::{Error, Result};
use crate::fetch;

/// Runs the job to its end; Ctrl-C cancels its token, a second one ends the process at once.
pub(super) fn block_on<T, F>(context: &Context, job: impl FnOnce(CancellationToken) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    // A command's own lines say what a user needs; the log is for those who asked for it.
    if context.resolved.origins.contains_key("log.level") {
        logging::start(&context.settings().log);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::Network { what: "cannot start the runtime".into(), source })?;
    let cancel = CancellationToken::new();
    let token = cancel.clone();
    // Listened for from here on, not only once the task runs: a job may be interrupted in its first moment.
    let interrupts = {
        let _in_runtime = runtime.enter();
        interrupts()
    };
    runtime.spawn(async move {
        // Without it Ctrl-C ends the process, as the system does by itself.
        let Ok(mut interrupts) = interrupts else { return };
        interrupts.recv().await;
        token.cancel();
        interrupts.recv().await;
        std::process::exit(130);
    });
    let result = runtime.block_on(job(cancel));
    // Tasks that are left only wait for something; nothing of the job is among them.
    runtime.shutdown_background();
    result
}

#[cfg(unix)]
fn interrupts() -> std::io::Result<tokio::signal::unix::Signal> {
    tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
}

#[cfg(windows)]
fn interrupts() -> std::io::Result<tokio::signal::windows::CtrlC> {
    tokio::signal::windows::ctrl_c()
}

/// Lets receivers that other fetches use live on for their while, when all is printed; Ctrl-C ends them.
pub(super) fn see_guests_out(printer: Printer) {
    if !fetch::has_guests() {
        return;
    }
    if printer.is_watched() {
        printer.note("another fetch still receives through this one; Ctrl-C makes it receive by itself");
    }
    // Without a runtime there is no waiting: the others notice, and receive by themselves.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let hurry = CancellationToken::new();
        let told = async {
            if tokio::signal::ctrl_c().await.is_ok() {
                hurry.cancel();
            }
            std::future::pending().await
        };
        tokio::select! {
            () = fetch::see_guests_out(&hurry) => {}
            () = told => {}
        }
    });
}
