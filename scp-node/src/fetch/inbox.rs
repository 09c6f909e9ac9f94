//! Where moved objects arrive: the service, when it runs, else a receiver that this process hosts for the while.
//!
//! Several fetches share one inbox. Whoever hosts it takes a lock for itself before it stops, and whoever uses it holds
//! that lock together with the others: so nobody's receiver vanishes under him. The service needs no lock, it stays.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lock::{Kind, Turn};
use crate::error::{Error, Result};
use crate::images::Store;
use crate::scp;
use crate::settings::Settings;

/// The lock's name: a receiver that another fetch hosts is in use.
const IN_USE: &str = "inbox";
/// How long a receiver may take from its lock on the directory to listening, and from closing to letting go.
const START_GRACE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(10);
/// How long our own port may take to answer.
const KNOCK: Duration = Duration::from_secs(1);

/// A receiver that is there until [`Inbox::close`].
#[derive(Debug)]
pub(super) enum Inbox {
    /// Somebody else's: the service's, or another fetch's, which waits for us.
    Foreign { _in_use: Turn },
    /// Ours.
    Hosted {
        receiver: JoinHandle<Result<()>>,
        store: Arc<Store>,
        shutdown: CancellationToken,
        root: PathBuf,
        _stop: DropGuard,
    },
}

impl Inbox {
    /// Uses the receiver that is there, or hosts one.
    ///
    /// # Errors
    /// [`Error::Network`] when another program has our port; [`Error::Misuse`] when a receiver with other settings has
    /// our directory; [`Error::Io`], [`Error::Catalog`], [`Error::Cancelled`].
    pub(super) async fn open(settings: &Settings, cancel: &CancellationToken) -> Result<Self> {
        let root = &settings.images.root;
        let start = Instant::now();
        loop {
            match Store::open(
                &settings.images,
                &settings.node.access.patients,
                settings.node.limits.object_bytes,
            ) {
                Ok(store) => return Self::host(settings, Arc::new(store), cancel).await,
                // Another receiver has the directory.
                Err(Error::Misuse { .. }) => {}
                Err(error) => return Err(error),
            }
            // Held from before the knock: a host that answers it will not leave before we are done.
            if let Some(in_use) = Turn::take(root, IN_USE, Kind::Shared)?
                && answers(settings).await
            {
                return Ok(Self::Foreign { _in_use: in_use });
            }
            if start.elapsed() > START_GRACE {
                return Err(Error::Misuse {
                    what: format!(
                        "another receiver has {}, but does not listen on port {}",
                        root.display(),
                        settings.node.port
                    ),
                    hint: "use the same settings file as the service, or stop the other receiver".into(),
                });
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(Error::Cancelled),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn host(settings: &Settings, store: Arc<Store>, cancel: &CancellationToken) -> Result<Self> {
        let listener = scp::bind(&settings.node).await?;
        let shutdown = cancel.child_token();
        let (owned, token, into) = (settings.clone(), shutdown.clone(), Arc::clone(&store));
        let receiver = tokio::spawn(async move { scp::run(listener, &owned, into, token).await });
        tracing::debug!(port = settings.node.port, "hosting the receiver while fetching");
        let (stop, root) = (shutdown.clone().drop_guard(), settings.images.root.clone());
        Ok(Self::Hosted { receiver, store, shutdown, root, _stop: stop })
    }

    /// Lets go; a receiver of ours stops when nobody uses it any more.
    pub(super) async fn close(self, cancel: &CancellationToken) {
        if let Self::Hosted { receiver, store, shutdown, root, _stop } = self {
            let unused = Turn::wait(&root, IN_USE, Kind::Exclusive, cancel).await;
            shutdown.cancel();
            if let Err(error) = receiver.await.unwrap_or(Ok(())) {
                tracing::warn!(%error, "the hosted receiver ended with an error");
            }
            store.close();
            drop(store);
            drop(unused);
        }
    }
}

/// Whether something takes connections on our own port.
async fn answers(settings: &Settings) -> bool {
    let ip = match settings.node.bind {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let knock = TcpStream::connect(SocketAddr::new(ip, settings.node.port));
    matches!(tokio::time::timeout(KNOCK, knock).await, Ok(Ok(_)))
}
