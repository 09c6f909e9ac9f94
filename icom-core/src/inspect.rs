//! What a file of messages holds, without any index.
//!
//! Input: raw messages. Output: one [`Record`] per session in them, and what the framing counted. The times of receipt are the linac's clock.

use chrono::TimeDelta;

use crate::frame::{Frame, FrameCounts, frames_of};
use crate::session::{EndReason, Record, Sessions};
use crate::snapshot::Snapshot;

/// A file's content.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Its messages.
    pub frames: Vec<Frame>,
    /// What the framing counted.
    pub counts: FrameCounts,
    /// Sessions in it, in order.
    pub records: Vec<Record>,
}

/// Reads raw messages.
#[must_use]
pub fn inspect(bytes: &[u8]) -> Inspection {
    let (frames, counts) = frames_of(bytes);
    let mut sessions = Sessions::new(TimeDelta::days(1));
    let mut records = Vec::new();
    for frame in &frames {
        let snapshot = Snapshot::read(frame.linac_time, frame.counter, frame.items());
        records.extend(sessions.frame(frame, &snapshot, frame.linac_time.and_utc()).ended);
    }
    records.extend(sessions.end(EndReason::Stopped));
    Inspection { frames, counts, records }
}
