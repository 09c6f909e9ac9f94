//! `serve`: the service, until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Context, logging};
use crate::error::{Error, Result};
use crate::images::Catalog;
use crate::scu::resolver;
use crate::{fetch, hooks, icom, scp, trf, web};

/// How long a look at a disk may take when all else has ended.
const LEFT_OVER: Duration = Duration::from_secs(5);

/// Runs the service: receives what the archive and others send, until Ctrl-C or a stop from the system.
///
/// The archive must know this node as a trusted application entity: AE title, address and port as `config show` prints.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, context: &Context) -> Result<ExitCode> {
    logging::start(&context.settings().log);
    scp::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Network { what: "no runtime".into(), source })?;
    let served = runtime.block_on(serve(context));
    // What is left only looks at disks, and a share that is dead answers nobody.
    runtime.shutdown_timeout(LEFT_OVER);
    served.map(|()| ExitCode::SUCCESS)
}

async fn serve(context: &Context) -> Result<()> {
    let stop_asked = stopped();
    let settings = context.settings();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        stop_asked.await;
        stop.cancel();
        tracing::info!("stopping");
    });
    let store = match fetch::store_for_service(settings, &shutdown).await {
        Err(Error::Cancelled) => return Ok(()),
        store => store?,
    };
    let listener = scp::bind(&settings.node).await?;
    let board = web::Board::default();
    let address =
        listener.local_addr().map_err(|source| Error::Network { what: "no address".into(), source })?;
    let ae_title = &settings.node.ae_title;
    tracing::info!(%ae_title, %address, root = %settings.images.root.display(), "receiving");
    context
        .printer
        .line(format!("{ae_title} receives on {address}, files into {}", settings.images.root.display()));
    let pages = pages(context).await;
    let page = pages.as_ref().and_then(|pages| pages.local_addr().ok());
    if let Some(page) = page {
        context.printer.line(format!("status page on http://{page}/"));
    }
    context.printer.json(&serde_json::json!({
        "ae_title": ae_title, "address": address, "root": settings.images.root, "web": page
    }));
    let store = Arc::new(store);
    let tasks = TaskTracker::new();
    // Ended after the receiver, so that it hears of every image that arrived.
    let all_received = CancellationToken::new();
    tasks.spawn(hooks::run(
        settings.hooks.clone(),
        context.resolved.file.clone(),
        store.subscribe(),
        Catalog::open(&settings.images.root)?,
        all_received.clone(),
    ));
    let listening = icom::IcomHandle::default();
    tasks.spawn(linacs(settings.listener(), listening.clone(), board.clone(), shutdown.clone()));
    tasks.spawn(trf::schedule::run(settings.clone(), board.clone(), shutdown.clone()));
    let receiver = Arc::<scp::Counters>::default();
    if let Some(pages) = pages {
        let watched = web::Watched {
            board,
            settings: Arc::new(settings.clone()),
            receiver: Arc::clone(&receiver),
            address,
            icom: listening,
            started: chrono::Utc::now(),
        };
        tasks.spawn(web::run(pages, watched, shutdown.clone()));
    }
    tasks.spawn(resolver::run(settings.clone(), store.subscribe(), shutdown.clone()));
    tasks.close();
    let received = scp::run_counted(listener, settings, Arc::clone(&store), shutdown.clone(), receiver).await;
    // However the receiver ended, the other tasks end with it.
    shutdown.cancel();
    all_received.cancel();
    tasks.wait().await;
    received
}

/// The linacs' iCom streams. A listener that cannot start is told, and takes nothing else down.
async fn linacs(
    settings: icom_core::ListenerSettings,
    handle: icom::IcomHandle,
    board: web::Board,
    shutdown: CancellationToken,
) {
    if let Err(error) = icom::run(settings, handle, shutdown).await {
        tracing::error!(%error, hint = error.hint(), "iCom is not listened to");
        board.post("iCom", None, web::Level::Broken, format!("not listened to: {error}; {}", error.hint()));
    }
}

/// The status page's socket. Without it the service does all else, and says so.
async fn pages(context: &Context) -> Option<tokio::net::TcpListener> {
    match web::bind(context.settings()).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, hint = error.hint(), "no status page");
            None
        }
    }
}

/// Ctrl-C, or the system's wish: SIGTERM, a closed terminal (SIGHUP, unless `nohup` has it ignored), on Windows Ctrl-Break, a closed
/// console or a shutdown.
///
/// What asks for a stop is heard from the call on, not only once the future is awaited: a service may be stopped in the
/// moment in which it says that it is up.
pub(super) fn stopped() -> impl Future<Output = ()> + Send {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = signal(SignalKind::terminate()).and_then(|t| Ok((t, signal(SignalKind::interrupt())?)));
        let hangup = if ignores_hangup() { None } else { signal(SignalKind::hangup()).ok() };
        async move {
            let hung_up = async {
                match hangup {
                    Some(mut hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            match signals {
                Ok((mut terminate, mut interrupt)) => {
                    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, () = hung_up => {} }
                }
                Err(_) => drop(tokio::signal::ctrl_c().await),
            }
        }
    }
    #[cfg(windows)]
    {
        use tokio::signal::windows;
        let signals = windows::ctrl_c()
            .and_then(|c| Ok((c, windows::ctrl_break()?, windows::ctrl_close()?, windows::ctrl_shutdown()?)));
        async move {
            match signals {
                Ok((mut interrupt, mut other, mut close, mut shutdown)) => {
                    tokio::select! {
                        _ = interrupt.recv() => {}, _ = other.recv() => {},
                        _ = close.recv() => {}, _ = shutdown.recv() => {},
                    }
                }
                Err(_) => drop(tokio::signal::ctrl_c().await),
            }
        }
    }
}

/// Whether the process was started with SIGHUP ignored, as by `nohup`: listening for it would undo that.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    // Bit 0 is signal 1. Source: proc_pid_status(5). Where there is no such file, a terminal's end is what it says.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
