//! Where moved objects arrive: the service, when it runs, else a receiver that this process hosts for the while.
//!
//! Several fetches share one receiver. A host's work ends with its own result; its receiver lives on, on a thread of its
//! own, while others use it, for [`LINGER`] at most. Whoever uses it holds a shared lock, which the host takes exclusively
//! before it stops, so that nobody's receiver vanishes under him. It may all the same: its process is killed, told to stop,
//! or its time is up. So those who use it look again before they ask a second time, and then host by themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lock::{Kind, Turn};
use crate::error::{Error, Result};
use crate::images::Store;
use crate::scp;
use crate::settings::Settings;

/// The lock's name: a receiver that another fetch hosts is in use.
const IN_USE: &str = "inbox";
/// The lock's name: a fetch hosts the receiver, or looks whether it can. Held from before the store's own lock until after it.
const HOSTING: &str = "hosting";
/// How long the service waits for a fetch that hosts the receiver. Justification: longer than any fetch that somebody
/// waits for, and than [`LINGER`]; afterwards the system's own way of starting a service again is the better one.
#[cfg(feature = "server")]
const SERVICE_WAIT: Duration = Duration::from_secs(600);
/// How long a receiver may take from its lock on the directory to listening, and from closing to letting go.
const START_GRACE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(10);
/// How long our own port may take to answer.
const KNOCK: Duration = Duration::from_secs(1);
/// How long a host goes on for others when its own work is done. Justification: a session is moved in seconds; whoever
/// needs longer goes on by himself, at the price of one more request; and a user waits no longer for his prompt.
const LINGER: Duration = Duration::from_secs(20);

/// Receivers of this process that live on for others.
static LINGERING: Mutex<Vec<Lingering>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Lingering {
    /// Ends it now.
    hurry: CancellationToken,
    ended: CancellationToken,
}

/// A receiver that is there until [`Inbox::close`].
#[derive(Debug)]
pub(super) enum Inbox {
    /// Somebody else's: the service's, or another fetch's, which waits for us.
    Foreign { in_use: Option<Turn> },
    /// Ours.
    Hosted(Host),
}

/// A receiver of ours, on a thread of its own. Dropped, it goes on for others, as after [`Inbox::close`].
#[derive(Debug)]
pub(super) struct Host {
    /// Our own work is done.
    done: DropGuard,
    /// Others have no claim any more.
    hurry: CancellationToken,
    /// Only others keep it.
    lingers: CancellationToken,
    ended: CancellationToken,
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
            if let Some((store, hosting)) = free_store(settings)? {
                return Ok(Self::Hosted(Host::start(settings, store, hosting, cancel).await?));
            }
            // Held from before the knock: a host that answers it will not leave before we are done.
            if let Some(in_use) = Turn::take(root, IN_USE, Kind::Shared)?
                && answers(settings).await
            {
                return Ok(Self::Foreign { in_use: Some(in_use) });
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

    /// Makes sure that there still is a receiver: that of another process may be gone.
    ///
    /// # Returns
    /// Whether it was gone.
    /// # Errors
    /// As [`Inbox::open`].
    pub(super) async fn renew(&mut self, settings: &Settings, cancel: &CancellationToken) -> Result<bool> {
        let Self::Foreign { in_use } = self else { return Ok(false) };
        if answers(settings).await {
            return Ok(false);
        }
        tracing::info!("the receiver that we used is gone");
        // Let go first: a host of our own would wait for it.
        drop(in_use.take());
        *self = Self::open(settings, cancel).await?;
        Ok(true)
    }

    /// Lets go; a receiver of ours goes on for a while if others use it.
    pub(super) async fn close(self) {
        if let Self::Hosted(host) = self {
            host.leave().await;
        }
    }
}

/// The store for a fetch that hosts; `None` when another receiver has the directory.
fn free_store(settings: &Settings) -> Result<Option<(Store, Turn)>> {
    let Some(hosting) = Turn::take(&settings.images.root, HOSTING, Kind::Exclusive)? else { return Ok(None) };
    match open_store(settings) {
        Ok(store) => Ok(Some((store, hosting))),
        Err(Error::Misuse { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The store for the service, which may start at any time: a fetch that hosts the receiver is waited for.
///
/// # Errors
/// [`Error::Misuse`] when another service has this root, or a fetch does not come to its end; [`Error::Cancelled`] after
/// a `stop`; [`Error::Io`], [`Error::Catalog`].
#[cfg(feature = "server")]
pub(crate) async fn store_for_service(settings: &Settings, stop: &CancellationToken) -> Result<Store> {
    let root = &settings.images.root;
    let start = Instant::now();
    let mut is_told = false;
    loop {
        // With this turn no fetch hosts: whoever has the directory nevertheless is another service.
        if let Some(_hosting) = Turn::take(root, HOSTING, Kind::Exclusive)? {
            return open_store(settings);
        }
        if !is_told {
            is_told = true;
            tracing::info!(root = %root.display(), "waiting for a fetch that hosts the receiver");
        }
        if start.elapsed() > SERVICE_WAIT {
            return Err(Error::Misuse {
                what: format!(
                    "a fetch has hosted the receiver of {} for {} s",
                    root.display(),
                    SERVICE_WAIT.as_secs()
                ),
                hint: "end the `scp-node fetch` that hangs, then start the service again".into(),
            });
        }
        tokio::select! {
            () = stop.cancelled() => return Err(Error::Cancelled),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn open_store(settings: &Settings) -> Result<Store> {
    Store::open(&settings.images, &settings.node.access.patients, settings.node.limits.object_bytes)
}

impl Host {
    async fn start(
        settings: &Settings,
        store: Store,
        hosting: Turn,
        cancel: &CancellationToken,
    ) -> Result<Self> {
        let done = CancellationToken::new();
        let host = Self {
            done: done.clone().drop_guard(),
            hurry: cancel.child_token(),
            lingers: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let (listens, listening) = oneshot::channel();
        let receiver = Receiver {
            settings: settings.clone(),
            store: Arc::new(store),
            hosting,
            done,
            hurry: host.hurry.clone(),
            lingers: host.lingers.clone(),
            _ended: host.ended.clone().drop_guard(),
        };
        // A runtime of its own, since the caller's may end with our work.
        std::thread::Builder::new()
            .name("receiver".into())
            .spawn(move || receiver.run(listens))
            .map_err(|source| Error::Network { what: "cannot start the receiver's thread".into(), source })?;
        listening.await.unwrap_or(Err(Error::Cancelled))?;
        tracing::debug!(port = settings.node.port, "hosting the receiver while fetching");
        Ok(host)
    }

    /// Waits for its end, unless others use it.
    async fn leave(self) {
        let Self { done, hurry, lingers, ended } = self;
        done.disarm().cancel();
        tokio::select! {
            biased;
            () = ended.cancelled() => {}
            () = lingers.cancelled() => {
                let mut all = LINGERING.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|other| !other.ended.is_cancelled());
                all.push(Lingering { hurry, ended });
            }
        }
    }
}

/// What the host's thread owns.
struct Receiver {
    settings: Settings,
    store: Arc<Store>,
    hosting: Turn,
    done: CancellationToken,
    hurry: CancellationToken,
    lingers: CancellationToken,
    /// Last of all: told when everything else is dropped.
    _ended: DropGuard,
}

impl Receiver {
    fn run(self, listens: oneshot::Sender<Result<()>>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.receive(listens)),
            Err(source) => {
                let _ = listens.send(Err(Error::Network { what: "no runtime".into(), source }));
            }
        }
    }

    async fn receive(self, listens: oneshot::Sender<Result<()>>) {
        let listener = match scp::bind(&self.settings.node).await {
            Ok(listener) => listener,
            Err(error) => {
                let _ = listens.send(Err(error));
                return;
            }
        };
        let _ = listens.send(Ok(()));
        let stop = CancellationToken::new();
        let receiving = scp::run(listener, &self.settings, Arc::clone(&self.store), stop.clone());
        let leaving = async {
            self.done.cancelled().await;
            let unused = self.unused().await;
            stop.cancel();
            unused
        };
        let (received, unused) = tokio::join!(receiving, leaving);
        if let Err(error) = received {
            tracing::warn!(%error, "the hosted receiver ended with an error");
        }
        self.store.close();
        drop(self.store);
        drop(self.hosting);
        // Now others may find the directory free.
        drop(unused);
    }

    /// The turn to stop; without it when others would keep us too long, or we are to hurry.
    async fn unused(&self) -> Option<Turn> {
        let root: &Path = &self.settings.images.root;
        match Turn::take(root, IN_USE, Kind::Exclusive) {
            Ok(Some(turn)) => return Some(turn),
            Ok(None) => self.lingers.cancel(),
            Err(_) => return None,
        }
        let turn = Turn::wait(root, IN_USE, Kind::Exclusive, &self.hurry);
        tokio::time::timeout(LINGER, turn).await.ok()?.ok()
    }
}

/// Whether a receiver of this process lives on for other fetches.
pub fn has_guests() -> bool {
    let all = LINGERING.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().any(|host| !host.ended.is_cancelled())
}

/// Waits until no receiver of this process is needed by other fetches, 20 s and a moment at most; for programs that
/// would end otherwise. `hurry` ends it at once, in order.
pub async fn see_guests_out(hurry: &CancellationToken) {
    let all = std::mem::take(&mut *LINGERING.lock().unwrap_or_else(PoisonError::into_inner));
    for host in all {
        tokio::select! {
            () = host.ended.cancelled() => {}
            () = hurry.cancelled() => {
                host.hurry.cancel();
                host.ended.cancelled().await;
            }
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
