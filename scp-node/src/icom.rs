//! The iCom listener as a task of the service.
//!
//! Input: settings and a shutdown. Output: files and index, see [`icom_core`]; its status for the web pages. The listener has threads
//! and a runtime of its own, so that nothing here can delay the reading of a linac.

use std::sync::{Arc, Mutex, PoisonError};

use icom_core::ListenerSettings;
use icom_core::service::{Service, Status};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// Gives the status of the running listener; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct IcomHandle {
    service: Arc<Mutex<Option<Service>>>,
}

impl IcomHandle {
    /// What the listener is doing; `None` while it is not running.
    pub fn status(&self) -> Option<Status> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Service::status)
    }
}

/// Listens to all linacs until shutdown, then stops in order: links close once the beam is off.
///
/// # Errors
/// What starting gives: wrong settings, a directory in use, a disk that cannot be written.
pub async fn run(settings: ListenerSettings, handle: IcomHandle, shutdown: CancellationToken) -> Result<()> {
    if settings.linacs.is_empty() {
        return Ok(());
    }
    let service = blocking(move || Service::start(&settings)).await??;
    *handle.service.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
    shutdown.cancelled().await;
    let service = handle.service.lock().unwrap_or_else(PoisonError::into_inner).take();
    blocking(move || service.map(Service::stop)).await?;
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Misuse {
        what: format!("the iCom listener ended unexpectedly: {error}"),
        hint: "please report this with the log".into(),
    })
}

/// The index's faults are those of its disk; what to do about a damaged one says the listener itself.
fn index_fault(source: rusqlite::Error) -> std::io::Error {
    use std::io::ErrorKind;
    let kind = match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => ErrorKind::StorageFull,
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::PermissionDenied) => {
            ErrorKind::PermissionDenied
        }
        _ => ErrorKind::Other,
    };
    std::io::Error::new(kind, source)
}

impl From<icom_core::Error> for Error {
    fn from(error: icom_core::Error) -> Self {
        let hint = error.hint().to_owned();
        match error {
            icom_core::Error::Malformed { section, offset, expected, found } => {
                Self::Malformed { section, offset: Some(offset), expected: expected.to_owned(), found }
            }
            icom_core::Error::PeerMisbehaved { peer, what } => {
                Self::PeerMisbehaved { peer, what, hint, comment: None }
            }
            icom_core::Error::Unsupported { what } => Self::Unsupported { what },
            icom_core::Error::Io { path, source } => Self::Io { path, source },
            icom_core::Error::Index { path, source } => Self::Io { path, source: index_fault(source) },
            icom_core::Error::Stale { reason } => Self::NotFound { what: reason, hint },
            other => Self::Misuse { what: other.to_string(), hint },
        }
    }
}
