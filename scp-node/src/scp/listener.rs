//! Accepts connections, negotiates, and gives each admitted association a thread.
//!
//! Before an association is admitted it costs a descriptor, 4 KiB and a task, for at most `node.timeouts.association_s` and
//! only while nobody else needs its place; after, a thread and a buffer, for as long as `node.limits` allow. Stop: no new
//! connection, idle associations end at once, running transfers get `node.timeouts.drain_s`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dicom_ul::pdu::{
    AbortRQServiceProviderReason as Abort, AssociationRJ, AssociationRJResult,
    AssociationRJServiceProviderPresentationReason as Presentation, AssociationRJServiceUserReason,
    AssociationRJSource, AssociationRQ, Pdu, write_pdu,
};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Accepted, admit, has_legal_contexts};
use super::association::{Association, Outcome, Tally, abort_of, say, seconds};
use super::descriptors::{self, Shares};
use super::patience::Patience;
use super::stream::{End, Event, Stream};
use super::waiting::{Seat, WaitingRoom};
use crate::error::{Error, Result};
use crate::images::Store;
use crate::settings::{NodeSettings, Settings, StorageClasses};

/// How long a peer from outside the networks may take to say what it is then refused. Justification: longer than a lost
/// packet takes to come again; who is not welcome gets no more.
const OUTSIDE_WAIT: Duration = Duration::from_secs(2);

/// What the receiver did since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Associations that were admitted.
    pub associations: AtomicU64,
    /// Associations that were rejected.
    pub rejected: AtomicU64,
    /// Associations that ended otherwise than by release.
    pub broken: AtomicU64,
    /// Objects that were acknowledged.
    pub stored: AtomicU64,
    /// Objects that were refused.
    pub refused: AtomicU64,
    /// Bytes of data sets.
    pub bytes: AtomicU64,
}

/// Listens where the settings say.
///
/// # Errors
/// [`Error::Network`] with a hint when the port is taken or not allowed.
pub async fn bind(node: &NodeSettings) -> Result<TcpListener> {
    let address = SocketAddr::new(node.bind, node.port);
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Network { what: format!("cannot listen on {address}"), source })
}

/// Receives until `shutdown`, then until all associations have ended or the drain deadline has passed.
///
/// # Errors
/// None but a listener that the system took away: each peer's faults end with its association.
pub async fn run(
    listener: TcpListener,
    settings: &Settings,
    store: Arc<Store>,
    shutdown: CancellationToken,
) -> Result<()> {
    run_counted(listener, settings, store, shutdown, Arc::default()).await
}

/// As [`run`], counting into `counters`.
pub async fn run_counted(
    listener: TcpListener,
    settings: &Settings,
    store: Arc<Store>,
    shutdown: CancellationToken,
    counters: Arc<Counters>,
) -> Result<()> {
    let node = Arc::new(settings.node.clone());
    let (limit, wanted) = (descriptors::limit(), node.limits.associations);
    let shares = Shares::of(limit, wanted);
    if shares.associations < wanted {
        let allowed = shares.associations;
        tracing::warn!(
            limit,
            wanted,
            allowed,
            "fewer associations than node.limits.associations, for lack of descriptors; raise the limit of open files"
        );
    }
    let server = Server {
        classes: settings.images.storage,
        associations: Arc::new(Semaphore::new(shares.associations)),
        waiting: WaitingRoom::new(shares.waiting),
        outside: WaitingRoom::new(descriptors::OUTSIDE_MAX),
        peers: Arc::default(),
        tracker: TaskTracker::new(),
        force: CancellationToken::new(),
        node,
        store,
        shutdown,
        counters,
    };
    server.accept(&listener).await;
    drop(listener);
    server.drain().await;
    Ok(())
}

#[derive(Clone)]
struct Server {
    node: Arc<NodeSettings>,
    classes: StorageClasses,
    store: Arc<Store>,
    shutdown: CancellationToken,
    /// The drain deadline has passed.
    force: CancellationToken,
    counters: Arc<Counters>,
    associations: Arc<Semaphore>,
    waiting: Arc<WaitingRoom>,
    /// For peers from outside the networks, which so take no place of others.
    outside: Arc<WaitingRoom>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    tracker: TaskTracker,
}

impl Server {
    async fn accept(&self, listener: &TcpListener) {
        // Descriptors or memory ran out: wait for associations to end instead of spinning.
        let mut pause = Duration::from_millis(5);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((socket, peer)) => {
                    pause = Duration::from_millis(5);
                    // On a dual-stack socket IPv4 peers come as IPv6.
                    let peer = peer.ip().to_canonical();
                    let room = if self.is_inside(peer) { &self.waiting } else { &self.outside };
                    let seat = tokio::select! {
                        seat = room.enter(peer) => seat,
                        () = self.shutdown.cancelled() => return,
                    };
                    let server = self.clone();
                    self.tracker.spawn(async move { server.connection(socket, peer, seat).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Waits for the associations that are under way.
    async fn drain(&self) {
        self.tracker.close();
        if tokio::time::timeout(seconds(self.node.timeouts.drain_s), self.tracker.wait()).await.is_err() {
            tracing::warn!("the drain deadline has passed; transfers that still run are aborted");
            self.force.cancel();
            self.tracker.wait().await;
        }
        self.store.close();
    }

    /// Whether the networks of the settings hold this address.
    fn is_inside(&self, peer: IpAddr) -> bool {
        let networks = &self.node.access.networks;
        networks.is_empty() || networks.iter().any(|n| n.contains(peer))
    }

    /// One connection: its negotiation while it has a seat, then its association.
    async fn connection(&self, socket: TcpStream, peer: IpAddr, seat: Seat) {
        let negotiated = tokio::select! {
            negotiated = self.negotiate(socket, peer) => negotiated,
            // Closed without a word: answering a flood would feed it.
            () = seat.asked_to_leave() => {
                self.counters.broken.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%peer, "connection gave way to another one before its association");
                None
            }
        };
        drop(seat);
        if let Some((stream, accepted, place)) = negotiated {
            self.associate(stream, accepted, place, peer).await;
        }
    }

    /// The request under the ARTIM timer, and its answer unless that is yes.
    async fn negotiate(&self, socket: TcpStream, peer: IpAddr) -> Option<(Stream, Accepted, Place)> {
        let mut stream = Stream::new(socket, self.node.limits.pdu_length);
        let artim = seconds(self.node.timeouts.association_s);
        let artim = if self.is_inside(peer) { artim } else { artim.min(OUTSIDE_WAIT) };
        // A request earns nothing back: the timer is for all of it.
        let mut patience = Patience::new(artim);
        let request = tokio::select! {
            request = stream.event(&mut patience) => request,
            () = self.shutdown.cancelled() => return None,
        };
        let end = match request {
            Ok(Event::Request(request)) if !has_legal_contexts(&request) => {
                End::broken(Abort::InvalidPduParameter, "context ids that are even, doubled or more than 128")
            }
            Ok(Event::Request(request)) => match self.decide(&request, peer) {
                Ok((accepted, place)) => return Some((stream, accepted, place)),
                Err(reject) => {
                    self.counters.rejected.fetch_add(1, Ordering::Relaxed);
                    let (calling, called) = (request.calling_ae_title.trim(), request.called_ae_title.trim());
                    tracing::warn!(%peer, calling, called, ours = %self.node.ae_title, reason = ?reject.source, "association rejected");
                    say(&mut stream, &Pdu::AssociationRJ(reject)).await;
                    return None;
                }
            },
            Ok(_) => End::broken(Abort::UnexpectedPdu, "no A-ASSOCIATE-RQ"),
            // A peer that only looks whether the port is open is nobody's fault.
            Err(End::Closed) => return None,
            Err(end) => end,
        };
        self.refuse(stream, peer, &end).await;
        None
    }

    async fn refuse(&self, mut stream: Stream, peer: IpAddr, end: &End) {
        self.counters.broken.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%peer, %end, "connection ended before an association");
        if let Some(pdu) = abort_of(end) {
            say(&mut stream, &pdu).await;
        }
    }

    fn decide(&self, request: &AssociationRQ, peer: IpAddr) -> Result<(Accepted, Place), AssociationRJ> {
        if !self.is_inside(peer) {
            let reason = AssociationRJServiceUserReason::NoReasonGiven;
            return Err(AssociationRJ {
                result: AssociationRJResult::Permanent,
                source: AssociationRJSource::ServiceUser(reason),
            });
        }
        let accepted = admit(request, &self.node, self.classes)?;
        let place = self.place(peer).ok_or(AssociationRJ {
            result: AssociationRJResult::Transient,
            source: AssociationRJSource::ServiceProviderPresentation(Presentation::LocalLimitExceeded),
        })?;
        Ok((accepted, place))
    }

    fn place(&self, peer: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.associations).try_acquire_owned().ok()?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= self.node.limits.associations_per_peer {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(&self.peers), peer, _permit: permit })
    }

    /// Moves the association to its thread, and waits for its end there.
    async fn associate(&self, mut stream: Stream, accepted: Accepted, place: Place, peer: IpAddr) {
        let mut bytes = Vec::new();
        if write_pdu(&mut bytes, &Pdu::AssociationAC(accepted.reply.clone())).is_err() {
            return;
        }
        // A peer that does not read must not hold its place, nor a stop.
        let wait = seconds(self.node.timeouts.pdu_s);
        let written = tokio::select! {
            written = tokio::time::timeout(wait, stream.socket().write_all(&bytes)) => written,
            () = self.shutdown.cancelled() => return,
        };
        if !matches!(written, Ok(Ok(()))) {
            self.counters.broken.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%peer, "connection ended before its acceptance was read");
            return;
        }
        let Ok((socket, ahead)) = stream.leave() else { return };
        self.counters.associations.fetch_add(1, Ordering::Relaxed);
        let (server, (done, ended)) = (self.clone(), tokio::sync::oneshot::channel());
        let thread = std::thread::Builder::new().name("association".into()).spawn(move || {
            server.serve(socket, &ahead, accepted, peer);
            drop(place);
            let _ = done.send(());
        });
        match thread {
            Ok(_) => drop(ended.await),
            Err(error) => tracing::error!(%error, "no thread for an association"),
        }
    }

    /// The association's thread: a runtime of its own, so that waiting for the disk stops nobody else.
    fn serve(&self, socket: std::net::TcpStream, ahead: &[u8], accepted: Accepted, peer: IpAddr) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let started = Instant::now();
        let calling = accepted.calling_ae.clone();
        let served = runtime.and_then(|runtime| {
            runtime.block_on(async {
                let stream = Stream::enter(socket, ahead, self.node.limits.pdu_length)?;
                let mut association = Association {
                    stream,
                    accepted,
                    store: &self.store,
                    timeouts: self.node.timeouts.clone(),
                    tally: Tally::default(),
                    counters: &self.counters,
                };
                let outcome = tokio::select! {
                    outcome = association.serve(&self.shutdown) => outcome,
                    () = self.force.cancelled() => Outcome::Stopped,
                };
                association.take_leave(&outcome).await;
                Ok((outcome, association.tally))
            })
        });
        match served {
            Ok((outcome, tally)) => self.tell(&outcome, tally, &calling.to_string(), peer, started.elapsed()),
            Err(error) => tracing::error!(%error, "an association could not begin"),
        }
    }

    fn tell(&self, outcome: &Outcome, tally: Tally, calling: &str, peer: IpAddr, took: Duration) {
        let Tally { stored, refused, echoes, bytes } = tally;
        match outcome {
            Outcome::Released => {
                tracing::info!(calling, %peer, stored, refused, echoes, bytes, ?took, "association released");
            }
            Outcome::Stopped => {
                tracing::info!(calling, %peer, stored, refused, bytes, "association stopped with the service")
            }
            Outcome::Ended(end) => {
                self.counters.broken.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(calling, %peer, stored, refused, bytes, %end, "association ended");
            }
        }
    }
}

/// An association's place among those that are allowed, given back when dropped.
struct Place {
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}
