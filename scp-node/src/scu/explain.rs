//! What an archive's refusal means in plain words, and what to check in Aria or the firewall.
//!
//! Every sentence that a user can see when an archive cannot be reached, does not want us, or does not deliver stands
//! here, so that each cause has exactly one sentence. Sources: PS3.8 §9.3.4 (rejection), PS3.4 annex C (status).

use std::io::ErrorKind;

use dicom_ul::pdu::{
    AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason as Acse,
    AssociationRJServiceProviderPresentationReason as Presentation, AssociationRJServiceUserReason as User,
    AssociationRJSource as Source,
};

use super::{MoveOutcome, Peer};
use crate::dimse::Status;
use crate::error::Error;
use crate::names::AeTitle;

/// The connection could not be made.
pub(super) fn unreachable(peer: &Peer, error: &std::io::Error) -> Error {
    let (what, hint) = match error.kind() {
        ErrorKind::ConnectionRefused => (
            "nothing listens there: the archive is down, or the port is wrong".to_owned(),
            "check that Aria's DB Service runs, and host and port of this [[archive]]".to_owned(),
        ),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => (
            format!("no way to this host ({error})"),
            "check the network, and the host of this [[archive]]".to_owned(),
        ),
        _ => (
            format!("cannot connect ({error})"),
            "check host and port of this [[archive]], and the network".to_owned(),
        ),
    };
    Error::Unreachable { peer: peer.to_string(), what, hint }
}

/// The host's name means nothing here.
pub(super) fn unknown_host(peer: &Peer, error: &std::io::Error) -> Error {
    Error::Unreachable {
        peer: peer.to_string(),
        what: format!("the host name cannot be resolved ({error})"),
        hint: "check the host of this [[archive]], or give its IP address".into(),
    }
}

/// No answer to the connection attempt.
pub(super) fn connect_timeout(peer: &Peer, seconds: f64) -> Error {
    Error::Unreachable {
        peer: peer.to_string(),
        what: format!("no answer within {seconds} s"),
        hint: "a firewall between this machine and the archive probably drops the connection: ask for this port to be \
               opened, or check the host of this [[archive]]"
            .into(),
    }
}

/// Connected, but the association was never answered.
pub(super) fn associate_timeout(peer: &Peer, seconds: f64) -> Error {
    Error::Timeout {
        what: format!("{peer}: the answer to our association request"),
        seconds,
        hint:
            "the port is open but no DICOM service answers: check the port, or restart the archive's service"
                .into(),
    }
}

/// An answer of the archive did not come in time.
pub(super) fn response_timeout(peer: &Peer, what: &str, seconds: f64) -> Error {
    Error::Timeout {
        what: format!("{peer}: the answer to {what}"),
        seconds,
        hint: "the archive is slow or hangs: try again, or raise response_timeout_s of this [[archive]]"
            .into(),
    }
}

/// Closed in the middle.
pub(super) fn lost(peer: &Peer, error: Option<&std::io::Error>) -> Error {
    let why = error.map(|e| format!(" ({e})")).unwrap_or_default();
    Error::Unreachable {
        peer: peer.to_string(),
        what: format!("the connection was closed{why}"),
        hint: "try again; if it stays so, look into the archive's log for our AE title".into(),
    }
}

/// A-ABORT.
pub(super) fn aborted(peer: &Peer, by_provider: bool) -> Error {
    let who = if by_provider { "its DICOM layer" } else { "the archive" };
    misbehaved(peer, format!("{who} aborted the association"), "look into the archive's log for our AE title")
}

/// Something that the protocol does not allow here.
pub(super) fn unexpected(peer: &Peer, what: &str) -> Error {
    misbehaved(peer, what.to_owned(), "check that this port belongs to a DICOM query/retrieve service")
}

/// An answer that cannot be read.
pub(super) fn damaged(peer: &Peer, error: &Error) -> Error {
    misbehaved(
        peer,
        format!("its answer is damaged ({error})"),
        "try again; if it stays so, look into the archive's log for our AE title",
    )
}

/// A-ASSOCIATE-RJ, each reason with its own sentence.
pub(super) fn rejected(peer: &Peer, calling: &AeTitle, rejection: &AssociationRJ) -> Error {
    let transient = rejection.result == AssociationRJResult::Transient;
    let (what, hint) = match &rejection.source {
        Source::ServiceUser(User::CallingAETitleNotRecognized) => (
            format!("the archive does not know our AE title {calling}"),
            format!(
                "add {calling} with this machine's IP address and our port to the trusted application entities of Aria's DB Service, or correct node.ae_title"
            ),
        ),
        Source::ServiceUser(User::CalledAETitleNotRecognized) => (
            format!("the archive does not call itself {}", peer.ae_title),
            "check ae_title of this [[archive]]: upper and lower case count".into(),
        ),
        Source::ServiceUser(User::ApplicationContextNameNotSupported) => (
            "the archive does not support the DICOM application context".into(),
            "check that this port belongs to a DICOM service".into(),
        ),
        Source::ServiceUser(User::NoReasonGiven) => (
            "the archive rejects our association and gives no reason".into(),
            format!(
                "check in Aria's DB Service that {calling} is trusted with this machine's IP address, and ae_title of this [[archive]]"
            ),
        ),
        Source::ServiceProviderASCE(Acse::ProtocolVersionNotSupported) => (
            "the archive does not support this version of the DICOM protocol".into(),
            "check that this port belongs to a DICOM service".into(),
        ),
        Source::ServiceProviderPresentation(Presentation::TemporaryCongestion) => {
            ("the archive is busy (temporary congestion)".into(), "try again in a minute".into())
        }
        Source::ServiceProviderPresentation(Presentation::LocalLimitExceeded) => (
            "the archive has reached its number of associations".into(),
            "try again in a minute; if it stays so, raise the limit of associations in the archive".into(),
        ),
        Source::ServiceProviderASCE(Acse::NoReasonGiven) if transient => (
            "the archive rejects our association for now and gives no reason".into(),
            "try again in a minute".into(),
        ),
        other => (
            format!("the archive rejects our association ({})", reserved(other)),
            "look into the archive's log for our AE title".into(),
        ),
    };
    misbehaved(peer, what, &hint)
}

fn reserved(source: &Source) -> String {
    match source {
        Source::ServiceUser(reason) => format!("by its user layer: {reason}"),
        Source::ServiceProviderASCE(reason) => format!("by its association layer: {reason}"),
        Source::ServiceProviderPresentation(reason) => format!("by its presentation layer: {reason}"),
    }
}

/// The association stands, but without the service that we need.
pub(super) fn no_context(peer: &Peer, service: &str) -> Error {
    misbehaved(
        peer,
        format!("the archive does not offer {service}"),
        "check that this is the port of the query/retrieve service, and that our AE title may use it there",
    )
}

/// C-ECHO with a status other than success.
pub(super) fn echo_failed(peer: &Peer, status: Status) -> Error {
    misbehaved(
        peer,
        format!("C-ECHO ended with status {status}"),
        "look into the archive's log for our AE title",
    )
}

/// C-FIND with a failure status. PS3.4 §C.4.1.1.4.
///
/// # Arguments
/// * `is_hierarchical` — whether the archive is asked level by level already
pub fn find_failed(peer: &Peer, status: Status, comment: Option<&str>, is_hierarchical: bool) -> Error {
    let (what, hint) = match status.0 {
        0xA900 if is_hierarchical => (
            "the archive says that the query does not match its information model",
            "look into the archive's log for our AE title",
        ),
        0xC000..=0xCFFF if is_hierarchical => {
            ("the archive cannot process the query", "look into the archive's log for our AE title")
        }
        0xA700 => ("the archive is out of resources for this query", "try again in a minute"),
        0xA900 => (
            "the archive says that the query does not match its information model",
            "set strategy = \"hierarchical\" for this [[archive]]",
        ),
        0xC000..=0xCFFF => (
            "the archive cannot process the query",
            "set strategy = \"hierarchical\" for this [[archive]], and look into the archive's log",
        ),
        0x0122 => (
            "the archive does not support this query",
            "check that this is the port of the query/retrieve service",
        ),
        0x0124 => ("we are not authorized to query", "give our AE title the right to query in the archive"),
        // We asked for no end: Orthanc says so when there are more matches than it tells.
        0xFE00 => (
            "the archive ended the query before it had told all",
            "raise the archive's limit of results for one query (Orthanc: LimitFindResults, LimitFindInstances); if it has none, try again",
        ),
        _ => ("the query failed", "look into the archive's log"),
    };
    remarked(misbehaved(peer, format!("{what} (C-FIND status {status})"), hint), comment)
}

/// A C-MOVE that is never answered, while nothing arrives.
pub fn move_silent(peer: &Peer, seconds: f64, destination: &AeTitle, port: u16) -> Error {
    Error::Timeout {
        what: format!("{peer}: delivering to us (nothing reached our port, and C-MOVE was not answered)"),
        seconds,
        hint: format!(
            "a firewall probably drops the archive's connections to port {port} of this machine: ask for it to be opened, and check that Aria's entry of {destination} names this machine's IP address and port {port}; our own log tells whether we refused them"
        ),
    }
}

/// A C-MOVE that delivered nothing, or not all.
///
/// # Arguments
/// * `arrived` — how many objects have reached us; 0 points to the way back
/// * `destination`, `port` — the AE title and port that the archive must know
pub fn move_failed(
    peer: &Peer,
    outcome: &MoveOutcome,
    arrived: usize,
    destination: &AeTitle,
    port: u16,
) -> Error {
    let status = outcome.status;
    let entry = format!("{destination} with this machine's IP address and port {port}");
    let way_back = format!(
        "let connections from the archive to port {port} of this machine through the firewall, and check that Aria knows {entry}; our own log tells whether we refused them"
    );
    let (what, hint) = match status {
        Status::MOVE_DESTINATION_UNKNOWN => (
            format!("the archive does not know the move destination {destination}"),
            format!("add {entry} to the trusted application entities of Aria's DB Service: it must be trusted as a destination too, not only as a caller"),
        ),
        Status::UNABLE_TO_COUNT => ("the archive could not count what to move".into(), "try again; look into the archive's log".into()),
        Status::UNABLE_TO_PERFORM if arrived == 0 => ("the archive could not send to us: nothing reached our port".into(), way_back),
        Status::DATA_SET_MISMATCH => ("the archive says that the move does not match its information model".into(), "look into the archive's log".into()),
        Status::NOT_AUTHORIZED => ("we are not authorized to move".into(), "give our AE title the right to retrieve in the archive".into()),
        Status::CANCEL => ("the archive cancelled the move".into(), "try again".into()),
        _ if arrived == 0 && outcome.completed.unwrap_or(0) == 0 => (
            "the archive moved nothing to us: it does not know us as a destination, or no connection of it reaches our port".into(),
            format!("add {entry} to the trusted application entities of the archive, and let its connections to that port through the firewall; our own log tells whether we refused them"),
        ),
        _ => (
            format!("{} of the archive's transfers failed", outcome.failed.unwrap_or(0)),
            "look into the archive's log and ours for the reason; plans with an empty Beam Sequence cannot be exported from Aria".into(),
        ),
    };
    let error = misbehaved(peer, format!("{what} (C-MOVE status {status})"), &hint);
    remarked(error, outcome.comment.as_deref())
}

/// The archive's own words go beside the sentence, not into it: sentences are logged.
fn remarked(mut error: Error, remark: Option<&str>) -> Error {
    if let Error::PeerMisbehaved { comment, .. } = &mut error {
        *comment = remark.map(ToOwned::to_owned);
    }
    error
}

fn misbehaved(peer: &Peer, what: String, hint: &str) -> Error {
    Error::PeerMisbehaved { peer: peer.to_string(), what, hint: hint.to_owned(), comment: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer { ae_title: AeTitle::new("ARIA_DB").unwrap(), address: "aria:51402".into() }
    }

    fn rejections() -> Vec<Source> {
        use {Source::*, User::*};
        vec![
            ServiceUser(NoReasonGiven),
            ServiceUser(ApplicationContextNameNotSupported),
            ServiceUser(CallingAETitleNotRecognized),
            ServiceUser(CalledAETitleNotRecognized),
            ServiceUser(Reserved(9)),
            ServiceProviderASCE(Acse::NoReasonGiven),
            ServiceProviderASCE(Acse::ProtocolVersionNotSupported),
            ServiceProviderPresentation(Presentation::TemporaryCongestion),
            ServiceProviderPresentation(Presentation::LocalLimitExceeded),
            ServiceProviderPresentation(Presentation::Reserved(5)),
        ]
    }

    #[test]
    fn every_rejection_has_its_own_sentence_and_a_hint() {
        let calling = AeTitle::new("SCP_NODE").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for source in rejections() {
            let error = rejected(
                &peer(),
                &calling,
                &AssociationRJ { result: AssociationRJResult::Permanent, source },
            );
            assert!(!error.hint().is_empty() && error.to_string().lines().count() == 1, "{error}");
            assert!(seen.insert(error.to_string()), "twice: {error}");
        }
    }

    #[test]
    fn every_way_to_move_nothing_says_what_to_check() {
        let node = AeTitle::new("SCP_NODE").unwrap();
        let outcome = |status| MoveOutcome { status: Status(status), ..MoveOutcome::default() };
        let error = |status, arrived| move_failed(&peer(), &outcome(status), arrived, &node, 11112);
        assert!(error(0xA801, 0).to_string().contains("does not know the move destination SCP_NODE"));
        assert!(error(0xA801, 0).hint().contains("port 11112"));
        assert!(error(0xA702, 0).hint().contains("firewall"));
        assert!(error(0xC000, 0).hint().contains("trusted") && error(0xC000, 0).hint().contains("firewall"));
        assert!(error(0xB000, 3).hint().contains("log"));
        let remarked = MoveOutcome { comment: Some("DOE^JANE".into()), ..outcome(0xC000) };
        let remarked = move_failed(&peer(), &remarked, 0, &node, 11112);
        assert_eq!(remarked.comment(), Some("DOE^JANE"));
        assert!(!format!("{remarked} {}", remarked.hint()).contains("DOE"), "{remarked}");
        let all: std::collections::BTreeSet<_> =
            [0xA801, 0xA701, 0xA702, 0xA900, 0x0124, 0xFE00, 0xC000].map(|s| error(s, 0).to_string()).into();
        assert_eq!(all.len(), 7);
    }
}
