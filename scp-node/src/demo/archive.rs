//! The simulated Aria: what it holds, whom it trusts, what it does wrong, and a record of what it was asked.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::conversation;
use super::faults::Faults;
use super::patient::Instance;
use crate::dimse::Status;
use crate::error::{Error, Result};
use crate::names::AeTitle;

/// How the simulated Aria is set up.
#[derive(Debug, Clone)]
pub struct AriaOptions {
    /// Its AE title; an association that calls another one is rejected.
    pub ae_title: AeTitle,
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Its list of trusted application entities, title to address: they may call, and be a move's destination.
    pub trusted: BTreeMap<String, SocketAddr>,
    /// What it holds.
    pub instances: Vec<Instance>,
    /// What it does wrong.
    pub faults: Faults,
}

impl AriaOptions {
    /// `ARIA_DB` on a free port of the loopback interface, trusting one AE title.
    ///
    /// # Errors
    /// Never with this title; it is checked like any other.
    pub fn new(instances: Vec<Instance>, trusted_ae: &str, trusted_address: SocketAddr) -> Result<Self> {
        Ok(Self {
            ae_title: AeTitle::new("ARIA_DB")?,
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            trusted: BTreeMap::from([(trusted_ae.to_owned(), trusted_address)]),
            instances,
            faults: Faults::default(),
        })
    }
}

/// One request that the archive got, when, and how it ended.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `C-ECHO`, `C-FIND` or `C-MOVE`; `C-CANCEL` when one of them was cancelled, just before its own entry.
    pub what: &'static str,
    /// The query/retrieve level and the keys that had a value, as `IMAGE Modality=RTPLAN`; patient data are simulated.
    pub identifier: String,
    /// Answers of a find, sub-operations of a move that stored something.
    pub results: usize,
    /// Bytes that a move sent, data sets only.
    pub bytes: u64,
    /// Final status.
    pub status: Status,
    /// From the request to the final answer.
    pub took: Duration,
}

/// A running simulated Aria; dropping it stops it.
#[derive(Debug)]
pub struct SimulatedAria {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What its associations share.
#[derive(Debug)]
pub(super) struct Shared {
    pub ae_title: AeTitle,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub trusted: BTreeMap<String, SocketAddr>,
    pub instances: Arc<Vec<Instance>>,
    pub faults: Faults,
    pub asked: Vec<Asked>,
    pub associations: usize,
    pub open: usize,
    pub begun: usize,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> Faults {
        self.state().faults.clone()
    }
}

impl SimulatedAria {
    /// Listens and answers until it is dropped. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Network`] when the address cannot be bound.
    pub async fn start(options: AriaOptions) -> Result<Self> {
        let network =
            |source| Error::Network { what: format!("simulated archive on {}", options.listen), source };
        let listener = TcpListener::bind(options.listen).await.map_err(network)?;
        let address = listener.local_addr().map_err(network)?;
        let state = State {
            trusted: options.trusted,
            instances: Arc::new(options.instances),
            faults: options.faults,
            asked: Vec::new(),
            associations: 0,
            open: 0,
            begun: 0,
        };
        let shared = Arc::new(Shared { ae_title: options.ae_title, state: Mutex::new(state) });
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self { address, shared, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its AE title.
    pub fn ae_title(&self) -> &AeTitle {
        &self.shared.ae_title
    }

    /// Changes the faults from the next request on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.state().faults = faults;
    }

    /// Adds or changes an entry of the list of trusted application entities.
    pub fn trust(&self, ae_title: &str, address: SocketAddr) {
        self.shared.state().trusted.insert(ae_title.to_owned(), address);
    }

    /// Takes an entry off the list.
    pub fn distrust(&self, ae_title: &str) {
        self.shared.state().trusted.remove(ae_title);
    }

    /// Replaces what it holds.
    pub fn set_instances(&self, instances: Vec<Instance>) {
        self.shared.state().instances = Arc::new(instances);
    }

    /// Every request so far, in the order of their ends.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// Associations that were accepted so far.
    pub fn associations(&self) -> usize {
        self.shared.state().associations
    }

    /// Associations that stand at this moment.
    pub fn open_associations(&self) -> usize {
        self.shared.state().open
    }

    /// Requests that have come so far, those included that are not answered yet.
    pub fn begun(&self) -> usize {
        self.shared.state().begun
    }
}

impl Drop for SimulatedAria {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = socket else { continue };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // How a connection ends is the peer's to notice; the simulator goes on.
                _ = conversation::serve(socket, shared) => {}
            }
        });
    }
}
