//! What can go wrong, sorted by who must act.

use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate, one variant per party to blame; [`Error::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not what their format says.
    #[error("{section} at byte {offset}: expected {expected}, found {found}")]
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
    /// The input is valid, but not something we handle.
    #[error("not supported: {what}")]
    Unsupported {
        /// What is not handled.
        what: String,
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
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller's arguments do not fit together.
    #[error("{what}")]
    Misuse {
        /// What does not fit.
        what: String,
    },
}

impl Error {
    /// Something valid that we do not handle.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    /// Arguments that do not fit together.
    pub fn misuse(what: impl Into<String>) -> Self {
        Self::Misuse { what: what.into() }
    }

    /// The system's refusal, with the path it was about.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => {
                "check that the file is complete and of the kind expected; copy it again from its source"
            }
            Self::PeerMisbehaved { .. } => "check address and version of the other side, then try again",
            Self::Unsupported { .. } => {
                "use another input, or report this with the file's header so that it can be added"
            }
            Self::Limit { .. } => "the file is most likely damaged; copy it again from its source",
            Self::Io { .. } => "check that the path exists and that this account may use it",
            Self::Misuse { .. } => "correct the arguments",
        }
    }
}
