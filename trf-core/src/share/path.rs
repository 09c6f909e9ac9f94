//! A share that the operating system reads: a UNC path, a mount, or a plain directory.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::{ReadError, Remote, Sink, check_count, fits};
use crate::error::{Error, Result};

/// Bytes read at a time: few round trips, and often enough to show progress.
const CHUNK_BYTES: usize = 1 << 20;

/// A directory that the system reads.
#[derive(Debug)]
pub struct PathSource {
    directory: PathBuf,
}

impl PathSource {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        match std::fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => Ok(Self { directory: directory.to_path_buf() }),
            Ok(_) => Err(refused(directory, "is a file, not a directory", "name the directory of the zips")),
            Err(error) => Err(explain(directory, error)),
        }
    }

    pub(super) fn list(&self, pattern: &str) -> Result<Vec<Remote>> {
        let failed = |error| explain(&self.directory, error);
        let mut found = Vec::new();
        for (n, entry) in std::fs::read_dir(&self.directory).map_err(failed)?.enumerate() {
            check_count(n)?;
            let entry = entry.map_err(failed)?;
            // A name that is not Unicode fits no pattern of ours, and could not be written down.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !fits(pattern, &name) {
                continue;
            }
            match std::fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => found.push(Remote {
                    name,
                    bytes: metadata.len(),
                    modified: metadata.modified().ok().map(DateTime::<Utc>::from),
                }),
                Ok(_) => {}
                // The linac removed it between the two calls.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(found)
    }

    pub(super) fn read(&self, name: &str, from: u64, to: u64, sink: &mut Sink<'_>) -> Result<(), ReadError> {
        let path = self.directory.join(name);
        let failed = |error| ReadError::Source(explain(&path, error));
        let mut file = File::open(&path).map_err(failed)?;
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = to.saturating_sub(from);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let got = match file.read(buffer.get_mut(..wanted).unwrap_or_default()) {
                Ok(0) => return Err(failed(ErrorKind::UnexpectedEof.into())),
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            sink(buffer.get(..got).unwrap_or_default()).map_err(ReadError::Sink)?;
            left = left.saturating_sub(got as u64);
        }
        Ok(())
    }
}

fn refused(path: &Path, what: &str, hint: &'static str) -> Error {
    Error::Unreachable { peer: path.display().to_string(), what: what.to_owned(), hint }
}

/// The sentence for what the system says about a path.
fn explain(path: &Path, error: std::io::Error) -> Error {
    // Windows' own numbers, which std sorts under `Uncategorized`: ERROR_BAD_NETPATH, ERROR_NETNAME_DELETED, ERROR_BAD_NET_NAME,
    // ERROR_SEM_TIMEOUT, ERROR_LOGON_FAILURE. Source: Windows SDK, winerror.h.
    if cfg!(windows) {
        match error.raw_os_error() {
            Some(53 | 121) => {
                return refused(
                    path,
                    "the host of the share does not answer",
                    "check the network and that it is on",
                );
            }
            Some(64) => {
                return refused(
                    path,
                    "the connection to the share was cut",
                    "run it again: it goes on where it stopped",
                );
            }
            Some(67) => {
                return refused(path, "there is no such share on that host", "check the share's name");
            }
            Some(1326) => {
                return refused(
                    path,
                    "the share refuses the login",
                    "store the share's user and password for the account that runs this (cmdkey /add), or set nss_host, nss_user and nss_password",
                );
            }
            _ => {}
        }
    }
    match error.kind() {
        ErrorKind::NotFound => refused(
            path,
            "there is no such file or directory",
            "check nss_path, and that the share is mounted",
        ),
        ErrorKind::PermissionDenied => refused(
            path,
            "this account may not read it",
            "give the account that runs this the right to read the share",
        ),
        ErrorKind::UnexpectedEof => {
            refused(path, "the file ended early: it was cut or replaced meanwhile", "run it again")
        }
        // ESTALE, ENOTCONN, EHOSTDOWN, ETIMEDOUT of a mount whose server went away.
        ErrorKind::StaleNetworkFileHandle
        | ErrorKind::NotConnected
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::TimedOut => refused(
            path,
            "the mounted share lost its server",
            "check the network; run it again: it goes on where it stopped",
        ),
        _ => Error::io(path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_and_a_file_in_its_place_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let error = PathSource::open(&dir.path().join("absent")).unwrap_err();
        assert!(error.to_string().ends_with("there is no such file or directory"), "{error}");
        assert!(error.hint().contains("mounted"));
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let error = PathSource::open(&dir.path().join("file")).unwrap_err();
        assert!(error.to_string().ends_with("is a file, not a directory"), "{error}");
    }

    #[test]
    fn reads_any_part_and_says_when_a_file_is_shorter_than_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(dir.path().join("SDD+1.zip"), &bytes).unwrap();
        std::fs::create_dir(dir.path().join("SDD+2.zip")).unwrap();
        let source = PathSource::open(dir.path()).unwrap();
        let listed = source.list("SDD*.zip").unwrap();
        assert_eq!(
            listed.iter().map(|r| (r.name.as_str(), r.bytes)).collect::<Vec<_>>(),
            [("SDD+1.zip", 3_000_000)]
        );
        let read = |from, to| {
            let mut got = Vec::new();
            let result = source.read("SDD+1.zip", from, to, &mut |part| {
                got.extend_from_slice(part);
                Ok(())
            });
            (result, got)
        };
        let (result, got) = read(1_234_567, 3_000_000);
        assert!(result.is_ok() && got == bytes[1_234_567..]);
        let (result, _) = read(0, 3_000_001);
        assert!(matches!(result, Err(ReadError::Source(e)) if e.to_string().contains("ended early")));
    }
}
