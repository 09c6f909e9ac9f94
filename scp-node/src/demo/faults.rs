//! What the simulated archive does wrong, so that tests can show what the node makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use dicom_core::Tag;

use crate::dimse::Status;

/// Faults, all off by default. They may be changed while the archive runs.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Keys that answers lack altogether.
    pub missing_keys: Vec<Tag>,
    /// Keys that come back empty.
    pub empty_keys: Vec<Tag>,
    /// Keys that come back empty in answers about single objects, by SOP Instance UID.
    pub empty_keys_of: BTreeMap<String, Vec<Tag>>,
    /// The count of a series' instances is one more than there are.
    pub wrong_counts: bool,
    /// Refuses queries that lack the unique keys of the levels above, with this status: an archive that is not relational.
    pub hierarchical_only: Option<Status>,
    /// Every C-FIND ends with this status instead of answers.
    pub find_status: Option<Status>,
    /// Status of each answer of a C-FIND, instead of 0xFF00.
    pub pending_status: Option<Status>,
    /// Every C-FIND ends with this status after all its answers.
    pub last_status: Option<Status>,
    /// A SERIES-level C-FIND ends with 0xFE00 after so many answers if there are more, as Orthanc's at its limit of results.
    pub crop_series: Option<usize>,
    /// Likewise at IMAGE level.
    pub crop_images: Option<usize>,
    /// Every C-MOVE ends with this status before any sub-operation.
    pub move_status: Option<Status>,
    /// So many of the next sub-operations fail; counts down, so that a retry works.
    pub fail_next: usize,
    /// So many of the next sub-operations are sent but counted as warnings; counts down.
    pub warn_next: usize,
    /// Sub-operations of these SOP Instance UIDs always fail, without anything being sent.
    pub fail_instances: BTreeSet<String>,
    /// So many of the next sub-operations are counted as done though nothing is sent; counts down.
    pub lie_next: usize,
    /// Wait before each answer of a C-FIND.
    pub answer_delay: Duration,
    /// Wait before each sub-operation of a C-MOVE.
    pub sub_operation_delay: Duration,
    /// The connection is cut after so many answers of a C-FIND.
    pub drop_after_answers: Option<usize>,
    /// The connection is cut after so many sub-operations of a C-MOVE.
    pub drop_after_sub_operations: Option<usize>,
    /// The answer of a C-MOVE never ends after so many sub-operations.
    pub stall_after_sub_operations: Option<usize>,
    /// Stores go to this address whatever the destination's entry says: an outdated entry at the archive.
    pub wrong_destination: Option<SocketAddr>,
    /// No store ever leaves, as behind a firewall that drops packets; the move fails after this time.
    pub never_calls_back: Option<Duration>,
    /// The Error Comment of every final response of a C-FIND or C-MOVE.
    pub comment: Option<String>,
    /// A connection that says nothing for so long between two requests is closed without a word.
    pub closes_idle_after: Option<Duration>,
    /// C-MOVE is refused in the negotiation.
    pub move_not_offered: bool,
    /// The first answer of a C-FIND comes again and again, with so many bytes of padding, until the asker has enough.
    pub answers_without_end: Option<usize>,
    /// Every association is rejected.
    pub reject: Option<Rejection>,
    /// Connections are taken, and then nothing is said.
    pub silent: bool,
}

/// Why an association is rejected. Source: PS3.8 §9.3.4, table 9-21.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No reason given.
    NoReason,
    /// The application context is not supported.
    ApplicationContext,
    /// The calling AE title is not recognized.
    CallingAe,
    /// The called AE title is not recognized.
    CalledAe,
    /// Temporary congestion: transient.
    Congestion,
    /// A local limit is exceeded: transient.
    LocalLimit,
}

impl Rejection {
    /// Result, source and reason as they stand in the PDU.
    pub(super) fn codes(self) -> [u8; 3] {
        match self {
            Self::NoReason => [1, 1, 1],
            Self::ApplicationContext => [1, 1, 2],
            Self::CallingAe => [1, 1, 3],
            Self::CalledAe => [1, 1, 7],
            Self::Congestion => [2, 3, 1],
            Self::LocalLimit => [2, 3, 2],
        }
    }
}

/// One off a counter; whether there was one.
pub(super) fn take_one(counter: &mut usize) -> bool {
    let there = *counter > 0;
    *counter = counter.saturating_sub(1);
    there
}
