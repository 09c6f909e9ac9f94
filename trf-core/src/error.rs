//! What can go wrong, sorted by who must act.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate, one variant per party to blame; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what their format says.
    #[error("malformed {section} at byte {offset}: expected {expected}, found {found}")]
    Malformed {
        /// Part of the file.
        section: &'static str,
        /// Offset of the offending bytes from the file's start (0 where a format has no offsets).
        offset: u64,
        /// What the format asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A machine or server answered against its protocol.
    #[error("{peer} misbehaved: {what}")]
    PeerMisbehaved {
        /// Host or role, never a patient's data.
        peer: String,
        /// What it did.
        what: String,
    },
    /// A machine or server cannot be reached, refuses us, or fell silent.
    #[error("{peer}: {what}")]
    Unreachable {
        /// Host or machine, never a patient's data.
        peer: String,
        /// What was tried and how it ended.
        what: String,
        /// What to check.
        hint: &'static str,
    },
    /// The input is valid, but not something we handle.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is not handled.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// The input exceeds a bound that protects this program.
    #[error("{what} is {found}, more than the limit of {limit}")]
    Limit {
        /// What was bounded.
        what: &'static str,
        /// Its size.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// The operating system refused.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database of the index.
    #[cfg(feature = "index")]
    #[error("index {}: {source}", path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The caller's arguments do not fit together.
    #[error("{what}")]
    Misuse {
        /// What does not fit.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
}

impl Error {
    /// Bytes that are not what their format says.
    pub fn malformed(
        section: &'static str,
        offset: usize,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Malformed { section, offset: offset as u64, expected: expected.into(), found: found.into() }
    }

    /// Something valid that we do not handle.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            hint: "use another input, or report this with the file's header so that it can be added",
        }
    }

    /// Arguments that do not fit together.
    pub fn misuse(what: impl Into<String>) -> Self {
        Self::Misuse { what: what.into(), hint: "correct the arguments" }
    }

    /// The same error with a remedy of its own, where the error is one of support or use.
    pub fn with_hint(mut self, remedy: &'static str) -> Self {
        if let Self::Unsupported { hint, .. } | Self::Misuse { hint, .. } = &mut self {
            *hint = remedy;
        }
        self
    }

    /// The system's refusal, with the path it was about.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// The database's refusal, with its file.
    #[cfg(feature = "index")]
    pub fn index(path: impl AsRef<Path>) -> impl FnOnce(rusqlite::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Index { path, source }
    }

    /// A stable word for scripts and logs: whom the error blames.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::PeerMisbehaved { .. } => "peer_misbehaved",
            Self::Unreachable { .. } => "unreachable",
            Self::Unsupported { .. } => "unsupported",
            Self::Limit { .. } => "limit",
            Self::Io { .. } => "io",
            #[cfg(feature = "index")]
            Self::Index { .. } => "io",
            Self::Misuse { .. } => "misuse",
        }
    }

    /// All of it in one line: with what the system said, which [`std::fmt::Display`] leaves to the source.
    pub fn text(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { section: "format version", .. } => {
                "if the linac's software is new, please report its version and this one to the project"
            }
            Self::Malformed { .. } => {
                "check that the file is complete and of the kind expected; copy it again from its source"
            }
            Self::PeerMisbehaved { .. } => "check address and version of the other side, then try again",
            Self::Limit { .. } => "the file is most likely damaged; copy it again from its source",
            #[cfg(feature = "index")]
            Self::Index { source, .. } => match source.sqlite_error_code() {
                Some(
                    rusqlite::ErrorCode::ReadOnly
                    | rusqlite::ErrorCode::CannotOpen
                    | rusqlite::ErrorCode::PermissionDenied,
                ) => "give the account that runs this program the right to write in trf.root",
                Some(rusqlite::ErrorCode::DiskFull) => "free space on the disk, then try again",
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    "close programs that hold the file, then try again"
                }
                _ => {
                    "keep the file, move it away and run `scp-node trf index --rescan`: it enters all records again from their files"
                }
            },
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::NotFound => "check the path; on a share, check that the share is mounted",
                ErrorKind::PermissionDenied => "give the account that runs this program access to it",
                ErrorKind::StorageFull => "free space on the disk, then try again",
                _ => "check the disk or the network share, then try again",
            },
            Self::Unreachable { hint, .. } | Self::Unsupported { hint, .. } | Self::Misuse { hint, .. } => {
                hint
            }
        }
    }
}
