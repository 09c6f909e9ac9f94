//! What can go wrong, sorted by who is to blame, and the one-line remedy for each.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error, sorted by blame.
///
/// `Display` gives one lowercase line with one cause; [`Error::hint`] gives the remedy. Neither holds a patient's
/// name, a patient ID that came over the network, or a payload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes that do not follow their format.
    #[error("{section}: expected {expected}, found {found}{}", at(.offset))]
    Malformed {
        /// Which part of the input.
        section: &'static str,
        /// Byte offset in that part, where known.
        offset: Option<u64>,
        /// What the format says.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A peer that speaks the format but breaks the protocol, or refuses.
    #[error("{peer}: {what}")]
    PeerMisbehaved {
        /// AE title or address.
        peer: String,
        /// What it did.
        what: String,
        /// What to check there.
        hint: String,
        /// What it said in its own words, which may be anything: for the user's eyes, in no line of the log.
        comment: Option<String>,
    },
    /// A peer that cannot be reached or fell silent.
    #[error("{peer}: {what}")]
    Unreachable {
        /// AE title and address.
        peer: String,
        /// What was tried and how it ended.
        what: String,
        /// What to check.
        hint: String,
    },
    /// A series, or a plan, that is not there, or not whole.
    #[error("{what}")]
    Incomplete {
        /// How many and which.
        what: String,
        /// What to do.
        hint: String,
        /// SOP Instance UIDs that were listed but did not arrive.
        missing: Vec<String>,
        /// What the archive said about it in its own words, as in [`Error::PeerMisbehaved`].
        comment: Option<String>,
    },
    /// Nothing matches what was asked for.
    #[error("{what}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What to try.
        hint: String,
    },
    /// Legal, but not something this program does.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What.
        what: String,
    },
    /// A limit of ours was reached.
    #[error("{what}: {found} is over the limit of {limit}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What it allows.
        limit: u64,
        /// What was asked.
        found: u64,
    },
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A socket of ours.
    #[error("{what}: {source}")]
    Network {
        /// What we were doing.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The catalog's database.
    #[error("catalog {}: {source}", path.display())]
    Catalog {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A setting, with its key.
    #[error("settings: {key}: {what}")]
    Settings {
        /// Dotted key.
        key: String,
        /// What is wrong and what would be right.
        what: String,
    },
    /// Records, their index, Mosaiq, a share.
    #[error(transparent)]
    Trf(trf_core::Error),
    /// Our caller asked for something that makes no sense.
    #[error("{what}")]
    Misuse {
        /// What.
        what: String,
        /// What would make sense.
        hint: String,
    },
    /// It was stopped from outside.
    #[error("cancelled")]
    Cancelled,
    /// A wait of ours ran out.
    #[error("{what} took longer than {seconds} s")]
    Timeout {
        /// What.
        what: String,
        /// The limit.
        seconds: f64,
        /// What to check.
        hint: String,
    },
}

/// With less room than this the catalog cannot be written. Justification: its log's index alone grows by 32 KiB.
const ROOM_OF_CATALOG: u64 = 1 << 20;

fn at(offset: &Option<u64>) -> String {
    offset.map(|o| format!(" at byte {o}")).unwrap_or_default()
}

impl Error {
    /// An I/O error with its path.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// What the user can do about it, one line without a full stop; empty when there is nothing to add.
    pub fn hint(&self) -> String {
        match self {
            Self::Malformed { .. } => "the bytes are damaged or of another kind; send or copy the object again".into(),
            Self::PeerMisbehaved { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::Incomplete { hint, .. }
            | Self::NotFound { hint, .. }
            | Self::Misuse { hint, .. }
            | Self::Timeout { hint, .. } => hint.clone(),
            Self::Limit { .. } => "raise the limit in the settings if this is legitimate".into(),
            Self::Io { source, .. } => io_hint(source).into(),
            Self::Network { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another program listens on this port: stop it, or set another node.port here and at the archive".into()
                }
                std::io::ErrorKind::PermissionDenied => {
                    "ports under 1024 need rights on Linux: choose one above, such as 11112".into()
                }
                _ => "check the address, the network and the firewall".into(),
            },
            Self::Catalog { source, .. }
                if matches!(
                    source.sqlite_error_code(),
                    Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::PermissionDenied)
                ) =>
            {
                "give this account the right to write in images.root, by membership in the group of the service's account".into()
            }
            Self::Catalog { path, source } if is_full(path, source) => "the disk or quota is full: free some room".into(),
            Self::Catalog { .. } => "close programs that hold the file; if it is damaged, `scp-node reindex` rebuilds it from the images".into(),
            Self::Settings { .. } => "correct it in the settings; `scp-node config show` prints what is in force when they are in order, and `scp-node config init` writes all keys".into(),
            Self::Trf(error) => error.hint().into(),
            Self::Unsupported { .. } | Self::Cancelled => String::new(),
        }
    }

    /// SOP Instance UIDs that were listed but did not arrive, all of them; the text names a few.
    pub fn missing(&self) -> &[String] {
        match self {
            Self::Incomplete { missing, .. } => missing,
            _ => &[],
        }
    }

    /// What the peer said in its own words: foreign text, which no log may hold.
    pub fn comment(&self) -> Option<&str> {
        match self {
            Self::PeerMisbehaved { comment, .. } | Self::Incomplete { comment, .. } => comment.as_deref(),
            _ => None,
        }
    }

    /// A stable word for scripts and for Python's `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::PeerMisbehaved { .. } => "peer_misbehaved",
            Self::Unreachable { .. } => "unreachable",
            Self::Incomplete { .. } => "incomplete",
            Self::NotFound { .. } => "not_found",
            Self::Unsupported { .. } => "unsupported",
            Self::Limit { .. } => "limit",
            Self::Io { .. } | Self::Network { .. } | Self::Catalog { .. } => "io",
            Self::Settings { .. } => "settings",
            Self::Trf(error) => error.kind(),
            Self::Misuse { .. } => "misuse",
            Self::Cancelled => "cancelled",
            Self::Timeout { .. } => "timeout",
        }
    }
}

impl From<trf_core::Error> for Error {
    fn from(error: trf_core::Error) -> Self {
        match error {
            trf_core::Error::Io { path, source } => Self::Io { path, source },
            error => Self::Trf(error),
        }
    }
}

/// Whether the catalog's disk is full. SQLite calls it an I/O error when the index of its log finds no room.
pub(crate) fn is_full(path: &Path, source: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
    match source.sqlite_error_code() {
        Some(DiskFull) => true,
        Some(SystemIoFailure) => {
            fs4::available_space(path.parent().unwrap_or(path)).is_ok_and(|free| free < ROOM_OF_CATALOG)
        }
        _ => false,
    }
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => "check that the path exists",
        std::io::ErrorKind::PermissionDenied => "give this account the right to read and write there",
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "the disk or quota is full: free some room"
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: choose another place in the settings"
        }
        _ => "check the disk and the path",
    }
}
