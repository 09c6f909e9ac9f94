//! The pages over HTTP/1.1, on the service's own runtime.
//!
//! Trust in clients: none. At most [`CONNECTIONS`] at once, each for [`CONNECTION_TIME`] at most; others wait unread.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::get;
use chrono::{DateTime, Utc};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::board::{Board, Level};
use super::{metrics, probe, status};
use crate::error::{Error, Result};
use crate::icom::IcomHandle;
use crate::scp::Counters;
use crate::settings::Settings;

/// Connections at once: some browsers' and a Prometheus's.
const CONNECTIONS: usize = 64;
/// A connection's whole life; whoever wants more connects again.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// How long a stop waits for answers under way.
const DRAIN: Duration = Duration::from_secs(2);

/// What the pages are about; cheap to clone.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Where the parts post.
    pub board: Board,
    /// The settings in force.
    pub settings: Arc<Settings>,
    /// What the receiver counts.
    pub receiver: Arc<Counters>,
    /// Where the receiver listens.
    pub address: SocketAddr,
    /// The iCom listener.
    pub icom: IcomHandle,
    /// When the service started.
    pub started: DateTime<Utc>,
}

/// Listens where the settings say; `None` if they say nowhere.
///
/// # Errors
/// [`Error::Misuse`] with a hint when the port is taken or not allowed.
pub async fn bind(settings: &Settings) -> Result<Option<TcpListener>> {
    let Some(address) = settings.web.address()? else { return Ok(None) };
    TcpListener::bind(address).await.map(Some).map_err(|error| Error::Misuse {
        what: format!("the status page cannot be shown at {address}: {error}"),
        hint: "set another web.bind, or an empty one to switch it off".into(),
    })
}

/// Serves until shutdown.
pub async fn run(listener: TcpListener, watched: Watched, shutdown: CancellationToken) {
    let listener = Limited { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)) };
    let looking = tokio::spawn(probe::run(watched.clone(), shutdown.clone()));
    let router = Router::new()
        .route("/", get(page))
        .route("/metrics", get(numbers))
        .route("/healthz", get(health))
        .with_state(watched);
    let stop = shutdown.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    let forced = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => {
            if let Err(error) = ended {
                tracing::error!(%error, "the status page ended");
            }
        }
        () = forced => {}
    }
    // It may hang in a dead disk; the process does not wait for it.
    looking.abort();
}

async fn page(State(watched): State<Watched>) -> impl IntoResponse {
    (headers("text/html; charset=utf-8"), status::page(&watched, Utc::now()))
}

async fn numbers(State(watched): State<Watched>) -> impl IntoResponse {
    (headers("text/plain; version=0.0.4; charset=utf-8"), metrics::page(&watched))
}

/// 200 while every part does its work, else 503 with a line for each that does not.
async fn health(State(watched): State<Watched>) -> impl IntoResponse {
    let mut reasons = String::new();
    for post in watched.board.posts().iter().filter(|post| post.level == Level::Broken) {
        let linac = post.linac.as_deref().map_or_else(String::new, |linac| format!(" of linac {linac}"));
        // Writing to a string cannot fail.
        let _ = writeln!(reasons, "{}{linac}: {}", post.part, post.sentence);
    }
    let (code, text) = match reasons.is_empty() {
        true => (StatusCode::OK, "ok\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    };
    (code, headers("text/plain; charset=utf-8"), text)
}

fn headers(kind: &'static str) -> AppendHeaders<[(HeaderName, &'static str); 4]> {
    AppendHeaders([
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        ),
    ])
}

/// A listener with a bounded number of connections, each with a bounded life.
struct Limited {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl axum::serve::Listener for Limited {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        // Retries by itself while the system has no descriptors.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        let end = Box::pin(tokio::time::sleep(CONNECTION_TIME));
        (Held { stream, end, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Held {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match Future::poll(self.end.as_mut(), context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
