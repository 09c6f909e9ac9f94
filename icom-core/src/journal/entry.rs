//! One entry of the journal, to bytes and back. Trust in the bytes: none; a checksum covers all of an entry.

use std::io::Read;

use chrono::{DateTime, Utc};

use super::to_u64;

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes as they came from the socket.
    Data,
    /// A link was made.
    Connected,
    /// A link ended; the payload says how.
    Disconnected,
    /// The service began after an orderly stop.
    OpenedClean,
    /// The service began after a crash: up to one fsync interval of bytes may be missing before this entry.
    OpenedUnclean,
    /// The service stopped in order.
    Closed,
    /// The link changed otherwise, such as refused; the payload says how.
    Link,
    /// Bytes were received and had to be dropped, because the disk took none; the payload is their number in decimal.
    Lost,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it holds.
    pub kind: Kind,
    /// When it was received.
    pub at: DateTime<Utc>,
    /// Stream offset at its beginning.
    pub offset: u64,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl Entry {
    /// Stream offset behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(if self.kind == Kind::Data { to_u64(self.payload.len()) } else { 0 })
    }
}

pub(super) fn encode(kind: Kind, at: DateTime<Utc>, offset: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[kind.byte(), 0, 0, 0]);
    bytes.extend_from_slice(&at.timestamp_micros().to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(payload);
    let crc = crc32fast::hash(bytes.get(4..).unwrap_or_default()).to_le_bytes();
    bytes.iter_mut().zip(crc).for_each(|(byte, value)| *byte = value);
    bytes
}

/// The next entry and its length; `None` for whatever is no whole entry.
pub(super) fn read_entry(reader: &mut impl Read) -> std::io::Result<Option<(Entry, u64)>> {
    let mut header = [0; HEADER_LEN];
    if !read_whole(reader, &mut header)? {
        return Ok(None);
    }
    let [c0, c1, c2, c3, l0, l1, l2, l3, kind, _, _, _, times @ ..] = header;
    let [at @ .., o0, o1, o2, o3, o4, o5, o6, o7] = times;
    let payload_len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let at = DateTime::from_timestamp_micros(i64::from_le_bytes(at));
    let (Some(kind), Some(at), true) = (Kind::from_byte(kind), at, payload_len <= MAX_PAYLOAD_LEN) else {
        return Ok(None);
    };
    let mut payload = vec![0; payload_len];
    if !read_whole(reader, &mut payload)? {
        return Ok(None);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header.get(4..).unwrap_or_default());
    hasher.update(&payload);
    if hasher.finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Ok(None);
    }
    let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
    let len = to_u64(HEADER_LEN.saturating_add(payload.len()));
    Ok(Some((Entry { kind, at, offset, payload }, len)))
}

fn read_whole(reader: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Connected => 1,
            Self::Disconnected => 2,
            Self::OpenedClean => 3,
            Self::OpenedUnclean => 4,
            Self::Closed => 5,
            Self::Lost => 6,
            Self::Link => 7,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Data,
            1 => Self::Connected,
            2 => Self::Disconnected,
            3 => Self::OpenedClean,
            4 => Self::OpenedUnclean,
            5 => Self::Closed,
            6 => Self::Lost,
            7 => Self::Link,
            _ => return None,
        })
    }
}

pub(super) const HEADER_LEN: usize = 28;
/// The listener reads at most 64 kB at once; more is a damaged length.
const MAX_PAYLOAD_LEN: usize = 1 << 20;
