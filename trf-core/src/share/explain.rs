//! What a refusal of the built-in SMB client means, in one sentence with a remedy. Pure.
//!
//! Source of the codes: \[MS-ERREF\] §2.3.1; which of them a server sends was tried with samba.

use smb::Error as Smb;

use crate::error::Error;

/// What the client was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Agreeing on a dialect, logging in, and entering the share.
    Entering,
    /// Opening or listing the directory.
    Listing,
    /// Reading a file.
    Reading,
}

/// Nothing in a directory fits the pattern.
pub(super) const NO_SUCH_FILE: u32 = 0xc000_000f;

/// The status that the server answered with, if that is what went wrong.
pub(super) fn status(error: &Smb) -> Option<u32> {
    match error {
        Smb::UnexpectedMessageStatus(status) | Smb::ReceivedErrorMessage(status, _) => Some(*status),
        _ => None,
    }
}

/// The sentence for a failed step; `peer` is the share as a person would write it.
pub(super) fn explain(peer: &str, user: &str, share: &str, doing: Doing, error: &Smb) -> Error {
    let (what, hint) = match status(error) {
        Some(status) => by_status(status, user, share, doing, error),
        None => by_kind(doing, error),
    };
    Error::Unreachable { peer: peer.to_owned(), what, hint }
}

const LOGIN_HINT: &str =
    "check nss_user and nss_password with whoever gave them (Elekta's engineer for an NSS)";
const ACCOUNT_HINT: &str = "ask whoever runs the share about this account";

fn by_status(status: u32, user: &str, share: &str, doing: Doing, error: &Smb) -> (String, &'static str) {
    match status {
        0xc000_006d | 0xc000_006a | 0xc000_0064 => {
            (format!("the share refuses the login of `{user}`: wrong user or password"), LOGIN_HINT)
        }
        0xc000_0234 => (format!("the account `{user}` is locked after wrong passwords"), ACCOUNT_HINT),
        0xc000_0072 => (format!("the account `{user}` is disabled"), ACCOUNT_HINT),
        0xc000_0071 | 0xc000_0224 => (format!("the password of `{user}` has expired"), ACCOUNT_HINT),
        0xc000_006e | 0xc000_006f | 0xc000_0070 | 0xc000_0193 | 0xc000_015b => {
            (format!("the account `{user}` may not log in here or now"), ACCOUNT_HINT)
        }
        0xc000_00cc => (
            format!("there is no share `{share}` on this host"),
            "check nss_share; the shares of a host are listed by `smbclient -L HOST` or `net view \\\\HOST`",
        ),
        0xc000_0022 if doing == Doing::Entering => {
            (format!("`{user}` may not use this share"), "give the account the right to read the share")
        }
        0xc000_0022 => {
            (format!("`{user}` may not read there"), "give the account the right to read the share")
        }
        0xc000_0034 | 0xc000_003a | 0xc000_0033 if doing == Doing::Reading => {
            ("the file is no longer there".into(), "run it again: the linac removes zips that are old")
        }
        0xc000_0034 | 0xc000_003a | 0xc000_0033 | 0xc000_0103 => {
            ("there is no such directory on the share".into(), "check nss_directory")
        }
        0xc000_0043 => (
            "the linac is still writing the file".into(),
            "run it again later: it is copied once the linac has closed it",
        ),
        0xc000_00bb | 0xc000_0002 => (
            "the host does not speak SMB 2 or 3".into(),
            "mount the share by the system and set nss_path, or have SMB 2 switched on",
        ),
        0xc000_00c9 | 0xc000_0203 | 0xc000_020c | 0xc000_023c => {
            ("the share ended the connection".into(), "run it again: it goes on where it stopped")
        }
        0xc000_00d0 | 0xc000_009a | 0xc000_0205 => {
            ("the share is overloaded".into(), "run it again later; see at_once")
        }
        _ => (
            format!("the share refused while {}: {}", doing.verb(), one_line(error)),
            "check the share's settings; search for the status",
        ),
    }
}

fn by_kind(doing: Doing, error: &Smb) -> (String, &'static str) {
    const NETWORK: &str = "check the network; run it again: it goes on where it stopped";
    match error {
        Smb::NegotiationError(_) => (
            format!("the host does not agree on a version of SMB ({})", one_line(error)),
            "SMB 2 or 3 is needed: mount the share by the system and set nss_path, or have SMB 2 switched on",
        ),
        Smb::SignatureVerificationFailed | Smb::CryptoError(_) | Smb::TranformFailed(_) => (
            format!("a message of the share failed its check ({})", one_line(error)),
            "something between here and the share changes bytes, or nss_encrypt is not offered there",
        ),
        Smb::OperationTimeout(..) => (format!("the share fell silent while {}", doing.verb()), NETWORK),
        _ if doing == Doing::Entering => (
            format!("the host did not go through with the login ({})", one_line(error)),
            "check that nss_host and nss_port lead to a file share, then run it again",
        ),
        _ => (format!("the connection was cut while {} ({})", doing.verb(), one_line(error)), NETWORK),
    }
}

impl Doing {
    /// After "while".
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Entering => "logging in",
            Self::Listing => "listing the directory",
            Self::Reading => "reading a file",
        }
    }
}

/// The client's own text, as one short line.
fn one_line(error: &Smb) -> String {
    let text = error.to_string();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(doing: Doing, error: &Smb) -> String {
        let error = explain(r"\\nss\Backup\TCS", "physics", "Backup", doing, error);
        assert!(!error.hint().is_empty());
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1);
        text
    }

    #[test]
    fn each_refusal_has_its_own_sentence() {
        let cases = [
            (0xc000_006d, Doing::Entering, "wrong user or password"),
            (0xc000_0234, Doing::Entering, "locked"),
            (0xc000_0072, Doing::Entering, "disabled"),
            (0xc000_0071, Doing::Entering, "expired"),
            (0xc000_00cc, Doing::Entering, "no share `Backup`"),
            (0xc000_0022, Doing::Entering, "may not use this share"),
            (0xc000_0022, Doing::Reading, "may not read"),
            (0xc000_003a, Doing::Listing, "no such directory"),
            (0xc000_0034, Doing::Reading, "no longer there"),
            (0xc000_0043, Doing::Reading, "still writing"),
            (0xc000_00bb, Doing::Entering, "does not speak SMB 2"),
            (0xc000_1234, Doing::Listing, "refused while listing"),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (status, doing, expected) in cases {
            let text = sentence(doing, &Smb::UnexpectedMessageStatus(status));
            assert!(text.contains(expected), "{status:#x}: {text}");
            assert!(seen.insert(text));
        }
        let cut = sentence(Doing::Reading, &Smb::ConnectionStopped);
        assert!(cut.contains("cut while reading"), "{cut}");
    }
}
