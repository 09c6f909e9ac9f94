//! Renames and removals of files that somebody else holds for a moment.
//!
//! A virus scanner, an indexer or a backup opens what was just written, and Windows renames and removes no file that is open
//! elsewhere: an object must not be refused for that. Other systems do either at once. Directories are not waited for: the open file
//! in them may be a viewer's, and a session that cannot be moved now is moved later.

use std::io;
use std::path::Path;
use std::time::Duration;

/// Pauses before the tries that follow the first, about a second in all. Justification: a scanner holds an image for some tens of
/// milliseconds; the catalog's lock is held meanwhile, and a sender waits.
const PAUSES_MS: [u64; 13] = [10, 20, 40, 60, 80, 100, 100, 100, 100, 100, 100, 100, 100];

/// Renames a file.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    once_free(|| std::fs::rename(from, to))
}

/// Removes a file.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    once_free(|| std::fs::remove_file(path))
}

/// Does this as soon as nobody else holds the file, or fails as it failed last.
pub(super) fn once_free<T>(work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    again(work, is_held, std::thread::sleep)
}

/// ERROR_ACCESS_DENIED (also what is to be deleted when it is closed), ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION. Source:
/// Microsoft, "System Error Codes (0-499)".
fn is_held(error: &io::Error) -> bool {
    cfg!(windows) && matches!(error.raw_os_error(), Some(5 | 32 | 33))
}

fn again<T>(
    mut work: impl FnMut() -> io::Result<T>,
    is_held: impl Fn(&io::Error) -> bool,
    mut sleep: impl FnMut(Duration),
) -> io::Result<T> {
    for pause in PAUSES_MS {
        match work() {
            Err(error) if is_held(&error) => sleep(Duration::from_millis(pause)),
            done => return done,
        }
    }
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was tried, how long was waited, and whether it was done.
    fn tried(error: io::ErrorKind, times: u32) -> (u32, Duration, bool) {
        let (mut tries, mut waited) = (0, Duration::ZERO);
        let work = || {
            tries += 1;
            if tries > times { Ok(()) } else { Err(error.into()) }
        };
        let held = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let done = again(work, held, |pause| waited += pause);
        (tries, waited, done.is_ok())
    }

    #[test]
    fn a_file_that_is_held_is_tried_again_for_a_second_and_other_failures_are_told_at_once() {
        use io::ErrorKind::{NotFound, PermissionDenied};
        assert_eq!(tried(PermissionDenied, 0), (1, Duration::ZERO, true));
        assert_eq!(tried(PermissionDenied, 2), (3, Duration::from_millis(30), true));
        let (tries, waited, done) = tried(PermissionDenied, u32::MAX);
        assert!(!done && tries == 14 && (900..1200).contains(&waited.as_millis()), "{tries}, {waited:?}");
        assert_eq!(tried(NotFound, 1), (1, Duration::ZERO, false));
    }

    #[cfg(windows)]
    #[test]
    fn a_file_that_a_scanner_has_open_is_renamed_when_it_is_closed() {
        use std::os::windows::fs::OpenOptionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&from, "image").unwrap();
        let open = std::fs::File::options().read(true).share_mode(0).open(&from).unwrap();
        let closes = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(open);
        });
        rename(&from, &to).unwrap();
        closes.join().unwrap();
        assert!(to.exists());
    }
}
