//! The directory on a linac's share that holds its diagnostics zips, however it is reached.
//!
//! Input: a [`Share`] as the settings say. Output: names, sizes, times and bytes. Trust: none; names are checked where they
//! become files ([`crate::collect`]), bytes where they are used ([`crate::diagnostics`]). Nothing is ever written to a share.
//! Unsupported: SMB 1 (what needs it is mounted by the system and read as a path), Kerberos in the built-in client.

mod explain;
mod path;
mod smb;

use std::fmt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
pub use path::PathSource;
pub use smb::SmbSource;

/// Port of SMB over TCP. Source: \[MS-SMB2\] §2.1.
pub const SMB_PORT: u16 = 445;

/// More names than a share of diagnostics can hold (the linac keeps eight); past it, it is another directory.
const MAX_LISTED: usize = 10_000;

/// How a linac's directory of diagnostics zips is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// By the operating system: a UNC path on Windows, a mounted directory elsewhere.
    Path(PathBuf),
    /// By the SMB client of this program.
    Smb(SmbAddress),
}

/// Where the built-in client finds the directory, and as whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmbAddress {
    /// Host name or address; of an SSH tunnel's end, too.
    pub host: String,
    /// Port, [`SMB_PORT`] but for tunnels.
    pub port: u16,
    /// Name of the share, such as `Backup`.
    pub share: String,
    /// Directory below it, such as `TCS`; may be empty.
    pub directory: String,
    /// `USER`, `DOMAIN\USER` or `USER@DOMAIN`.
    pub user: String,
    /// The user's password.
    pub password: Password,
    /// Whether what is not encrypted is refused.
    pub encrypt: bool,
}

/// A password that never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl fmt::Display for Share {
    /// As a person would write it; without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Smb(SmbAddress { host, port, share, directory, .. }) => {
                let port = if *port == SMB_PORT { String::new() } else { format!(":{port}") };
                let directory = directory.replace('/', "\\");
                let separator = if directory.is_empty() { "" } else { "\\" };
                write!(f, "\\\\{host}{port}\\{share}{separator}{directory}")
            }
        }
    }
}

/// A file on the share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name, without a path.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written, by the share's clock; `None` where the share does not tell.
    pub modified: Option<DateTime<Utc>>,
}

/// What ended a read.
#[derive(Debug)]
pub enum ReadError {
    /// The share, or the way to it: connecting again and going on may help.
    Source(Error),
    /// Who was given the bytes: going on does not help.
    Sink(Error),
}

/// Takes bytes in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// An open directory of a share.
#[derive(Debug)]
pub enum Source {
    /// See [`Share::Path`].
    Path(PathSource),
    /// See [`Share::Smb`].
    Smb(Box<SmbSource>),
}

impl Source {
    /// Connects, logs in and opens the directory.
    ///
    /// # Errors
    /// [`Error::Unreachable`], one sentence per cause: unknown host, nobody listens, no answer, wrong login, no such share, no
    /// such directory, no right to read; [`Error::Io`] for paths.
    pub fn open(share: &Share, cancel: &CancellationToken) -> Result<Self> {
        match share {
            Share::Path(path) => PathSource::open(path).map(Self::Path),
            Share::Smb(address) => Ok(Self::Smb(Box::new(SmbSource::open(address, cancel)?))),
        }
    }

    /// The files whose names fit `pattern` (`*` and `?`, letters in either case), oldest name first.
    ///
    /// # Errors
    /// As [`Source::open`]; [`Error::Limit`] for a directory that cannot be one of diagnostics.
    pub fn list(&mut self, pattern: &str) -> Result<Vec<Remote>> {
        let mut found = match self {
            Self::Path(source) => source.list(pattern)?,
            Self::Smb(source) => source.list(pattern)?,
        };
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Gives `sink` the bytes `from..to` of the file, in order.
    ///
    /// # Errors
    /// [`ReadError::Source`] when the share fails, or the file ends before `to`.
    pub fn read(&mut self, name: &str, from: u64, to: u64, sink: &mut Sink<'_>) -> Result<(), ReadError> {
        match self {
            Self::Path(source) => source.read(name, from, to, sink),
            Self::Smb(source) => source.read(name, from, to, sink),
        }
    }
}

/// Whether `name` fits `pattern` as on Windows: `*` any characters, `?` one, letters in either case.
fn fits(pattern: &str, name: &str) -> bool {
    let fold = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
    let (pattern, name) = (fold(pattern), fold(name));
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last `*` must swallow one more character: linear memory, no recursion.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == name.get(n) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    p = at + 1;
                    n = swallowed + 1;
                    star = Some((at, n));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

fn check_count(count: usize) -> Result<()> {
    if count > MAX_LISTED {
        let (found, limit) = (count as u64, MAX_LISTED as u64);
        return Err(Error::Limit { what: "number of files on the share", found, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_on_windows() {
        for (pattern, name) in
            [("SDD*.zip", "SDD+2026-11-20.ZIP"), ("SDD+*.zip", "sdd+1.zip"), ("*", "x"), ("a?c", "aBc")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("SDD*.zip", "SDD+1.zip.part"), ("SDD+*.zip", "SDD1.zip"), ("a?c", "ac")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_share_is_named_without_its_login() {
        let address = SmbAddress {
            host: "10.0.0.1".into(),
            port: 4450,
            share: "Backup".into(),
            directory: "TCS/sub".into(),
            user: "physics".into(),
            password: Password("tr0ub4dor".into()),
            encrypt: false,
        };
        assert_eq!(Share::Smb(address.clone()).to_string(), r"\\10.0.0.1:4450\Backup\TCS\sub");
        assert!(!format!("{address:?}").contains("tr0ub4dor"));
        let plain = SmbAddress { port: SMB_PORT, directory: String::new(), ..address };
        assert_eq!(Share::Smb(plain).to_string(), r"\\10.0.0.1\Backup");
    }
}
