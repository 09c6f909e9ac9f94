//! Errors by blame, each with a remedy.

use std::path::PathBuf;

/// What this crate returns in place of a value.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with iCom bytes, files and links, sorted by who has to act.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes break the grammar.
    #[error("malformed {section} at byte {offset}: expected {expected}, found {found}")]
    Malformed {
        /// Which part of the grammar.
        section: &'static str,
        /// Offset in the bytes that were given.
        offset: u64,
        /// What the grammar wants there.
        expected: &'static str,
        /// What stands there; never a patient's data.
        found: String,
    },
    /// A linac, or a client of ours, did what the protocol does not allow.
    #[error("{peer} misbehaved: {what}")]
    PeerMisbehaved {
        /// The linac's name or the client's address.
        peer: String,
        /// What it did.
        what: String,
    },
    /// Understood, but not done by this version.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
    /// A bound that protects memory or disk was reached.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What was bounded.
        what: &'static str,
        /// The bound, with its unit in `what`.
        limit: u64,
    },
    /// The operating system refused a file or a socket.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file, directory or address.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index could not be read or written.
    #[error("index {}: {source}", path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The live state of a linac is too old, or was never seen.
    #[error("{reason}")]
    Stale {
        /// Which linac, since when, and why if it is known.
        reason: String,
    },
    /// The caller asked for something that makes no sense.
    #[error("{what}")]
    Misuse {
        /// What, and what would be right.
        what: String,
    },
}

impl Error {
    /// Wraps a system error with the path it belongs to.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn index(path: impl Into<PathBuf>) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.into();
        move |source| Self::Index { path, source }
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => {
                "run `scp-node icom info` on the file; if it came from a linac, keep it and report it"
            }
            Self::PeerMisbehaved { .. } => "check with the console whether other iCom clients are connected",
            Self::Unsupported { .. } => "see docs/icom.md for what is supported",
            Self::Limit { .. } => "is this an iCom file? if so, report it with its size",
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space; nothing received so far is lost while memory lasts"
            }
            Self::Io { .. } => "check that the path exists and that this account may read and write it",
            Self::Index { .. } => {
                "is the index on a local disk? if it is damaged, `scp-node icom reindex` makes it again from the records"
            }
            Self::Stale { .. } => "is the service running, and the linac on? see its status page",
            Self::Misuse { .. } => "correct the arguments",
        }
    }
}
