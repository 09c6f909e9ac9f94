//! Command sets: implicit VR little endian, group 0000 only. Source: PS3.7 §9.3, annex E; PS3.8 annex E for fragments.
//!
//! Input: the bytes of one command set, as a peer sent them; nothing in them is trusted. Output: typed fields.
//! Unsupported: N-services (no node of ours speaks them).

use crate::dimse::Status;
use crate::error::{Error, Result};
use crate::names::Uid;

/// Longest command set that is read. Justification: the largest real one (C-MOVE-RSP with a failed UID list of
/// 500 images) has about 32 kB.
pub const COMMAND_SET_MAX: usize = 1 << 20;

/// (0000,0800) value that says no data set follows. Source: PS3.7 §E.1.
const NO_DATA_SET: u16 = 0x0101;
/// (0000,0800) value that says one follows; any other than 0101 would do.
const DATA_SET: u16 = 0x0001;

/// (0000,0100). Source: PS3.7 §E.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the standard's own names")]
pub enum CommandField {
    CStoreRq,
    CStoreRsp,
    CFindRq,
    CFindRsp,
    CMoveRq,
    CMoveRsp,
    CEchoRq,
    CEchoRsp,
    CCancelRq,
    /// Kept as it came.
    Unknown(u16),
}

impl CommandField {
    /// From the wire's number.
    pub fn from_code(code: u16) -> Self {
        match code {
            0x0001 => Self::CStoreRq,
            0x8001 => Self::CStoreRsp,
            0x0020 => Self::CFindRq,
            0x8020 => Self::CFindRsp,
            0x0021 => Self::CMoveRq,
            0x8021 => Self::CMoveRsp,
            0x0030 => Self::CEchoRq,
            0x8030 => Self::CEchoRsp,
            0x0FFF => Self::CCancelRq,
            other => Self::Unknown(other),
        }
    }

    /// The wire's number.
    pub fn code(self) -> u16 {
        match self {
            Self::CStoreRq => 0x0001,
            Self::CStoreRsp => 0x8001,
            Self::CFindRq => 0x0020,
            Self::CFindRsp => 0x8020,
            Self::CMoveRq => 0x0021,
            Self::CMoveRsp => 0x8021,
            Self::CEchoRq => 0x0030,
            Self::CEchoRsp => 0x8030,
            Self::CCancelRq => 0x0FFF,
            Self::Unknown(code) => code,
        }
    }
}

/// A command set, fields that are absent on the wire `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// (0000,0100)
    pub field: CommandField,
    /// (0000,0110)
    pub message_id: Option<u16>,
    /// (0000,0120)
    pub responded_to: Option<u16>,
    /// (0000,0002)
    pub sop_class_uid: Option<String>,
    /// (0000,1000)
    pub sop_instance_uid: Option<String>,
    /// (0000,0600)
    pub move_destination: Option<String>,
    /// (0000,0700)
    pub priority: Option<u16>,
    /// (0000,0800) is not 0101.
    pub has_data_set: bool,
    /// (0000,0900)
    pub status: Option<Status>,
    /// (0000,0902)
    pub error_comment: Option<String>,
    /// (0000,1020)
    pub remaining: Option<u16>,
    /// (0000,1021)
    pub completed: Option<u16>,
    /// (0000,1022)
    pub failed: Option<u16>,
    /// (0000,1023)
    pub warning: Option<u16>,
    /// (0000,1030), who started the move that this store belongs to.
    pub move_originator_ae: Option<String>,
    /// (0000,1031)
    pub move_originator_id: Option<u16>,
}

/// What a reply carries beside the ids that are copied from the request.
#[derive(Debug, Clone)]
pub struct Reply {
    /// (0000,0900)
    pub status: Status,
    /// (0000,0902), at most 64 characters reach the wire; never patient identity.
    pub comment: Option<String>,
}

impl Command {
    /// An empty command set of this kind.
    pub fn new(field: CommandField) -> Self {
        Self {
            field,
            message_id: None,
            responded_to: None,
            sop_class_uid: None,
            sop_instance_uid: None,
            move_destination: None,
            priority: None,
            has_data_set: false,
            status: None,
            error_comment: None,
            remaining: None,
            completed: None,
            failed: None,
            warning: None,
            move_originator_ae: None,
            move_originator_id: None,
        }
    }

    /// A request of this kind with message id, SOP class and, for queries and stores, medium priority.
    pub fn request(field: CommandField, message_id: u16, sop_class_uid: &str) -> Self {
        let priority = (field != CommandField::CEchoRq).then_some(0);
        let sop_class_uid = Some(sop_class_uid.to_owned());
        Self { message_id: Some(message_id), sop_class_uid, priority, ..Self::new(field) }
    }

    /// The response to this request.
    pub fn reply(&self, field: CommandField, reply: &Reply) -> Self {
        Self {
            responded_to: self.message_id,
            // What is no UID may be anything, of any length: it is not said again.
            sop_class_uid: self.sop_class_uid.clone().filter(|uid| Uid::new(uid).is_some()),
            sop_instance_uid: self.sop_instance_uid.clone().filter(|uid| Uid::new(uid).is_some()),
            status: Some(reply.status),
            error_comment: reply.comment.as_ref().map(|c| c.chars().take(64).collect()),
            ..Self::new(field)
        }
    }

    /// Reads a command set.
    ///
    /// # Errors
    /// [`Error::Malformed`] when an element is cut or has a length that its VR does not allow, or (0000,0100) is missing.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut command = Self::new(CommandField::Unknown(0));
        let mut kind = None;
        let mut data_set_type = NO_DATA_SET;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (bytes.len() - rest.len()) as u64;
            let cut = |expected: &str| malformed(offset, expected, &format!("{} bytes", rest.len()));
            let (head, tail) =
                rest.split_first_chunk::<8>().ok_or_else(|| cut("8 bytes of tag and length"))?;
            let [g0, g1, e0, e1, l0, l1, l2, l3] = *head;
            let (group, element) = (u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1]));
            let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if group != 0 {
                return Err(malformed(offset, "group 0000", &format!("group {group:04X}")));
            }
            let (value, tail) =
                tail.split_at_checked(length).ok_or_else(|| cut(&format!("{length} bytes of value")))?;
            rest = tail;
            let word = || match value {
                [a, b] => Ok(Some(u16::from_le_bytes([*a, *b]))),
                [] => Ok(None),
                _ => Err(malformed(offset, "a US value of 2 bytes", &format!("{} bytes", value.len()))),
            };
            match element {
                0x0002 => command.sop_class_uid = text(value),
                0x0100 => kind = word()?,
                0x0110 => command.message_id = word()?,
                0x0120 => command.responded_to = word()?,
                0x0600 => command.move_destination = text(value),
                0x0700 => command.priority = word()?,
                0x0800 => data_set_type = word()?.unwrap_or(NO_DATA_SET),
                0x0900 => command.status = word()?.map(Status),
                0x0902 => command.error_comment = text(value),
                0x1000 => command.sop_instance_uid = text(value),
                0x1020 => command.remaining = word()?,
                0x1021 => command.completed = word()?,
                0x1022 => command.failed = word()?,
                0x1023 => command.warning = word()?,
                0x1030 => command.move_originator_ae = text(value),
                0x1031 => command.move_originator_id = word()?,
                _ => {}
            }
        }
        let kind = kind.ok_or_else(|| malformed(0, "a Command Field (0000,0100)", "none"))?;
        command.field = CommandField::from_code(kind);
        command.has_data_set = data_set_type != NO_DATA_SET;
        Ok(command)
    }

    /// The bytes of this command set, group length first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        let word = |body: &mut Vec<u8>, element: u16, value: Option<u16>| {
            if let Some(value) = value {
                put(body, element, &value.to_le_bytes());
            }
        };
        let uid = |body: &mut Vec<u8>, element: u16, value: &Option<String>| {
            if let Some(value) = value {
                put_text(body, element, value, 0);
            }
        };
        let ascii = |body: &mut Vec<u8>, element: u16, value: &Option<String>| {
            if let Some(value) = value {
                put_text(body, element, value, b' ');
            }
        };
        uid(&mut body, 0x0002, &self.sop_class_uid);
        word(&mut body, 0x0100, Some(self.field.code()));
        word(&mut body, 0x0110, self.message_id);
        word(&mut body, 0x0120, self.responded_to);
        ascii(&mut body, 0x0600, &self.move_destination);
        word(&mut body, 0x0700, self.priority);
        word(&mut body, 0x0800, Some(if self.has_data_set { DATA_SET } else { NO_DATA_SET }));
        word(&mut body, 0x0900, self.status.map(|s| s.0));
        ascii(&mut body, 0x0902, &self.error_comment);
        uid(&mut body, 0x1000, &self.sop_instance_uid);
        word(&mut body, 0x1020, self.remaining);
        word(&mut body, 0x1021, self.completed);
        word(&mut body, 0x1022, self.failed);
        word(&mut body, 0x1023, self.warning);
        ascii(&mut body, 0x1030, &self.move_originator_ae);
        word(&mut body, 0x1031, self.move_originator_id);
        let mut bytes = Vec::with_capacity(body.len() + 12);
        put(&mut bytes, 0x0000, &(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }
}

fn malformed(offset: u64, expected: &str, found: &str) -> Error {
    Error::Malformed {
        section: "command set",
        offset: Some(offset),
        expected: expected.into(),
        found: found.into(),
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(value);
    let text = text.trim_end_matches(['\0', ' ']).trim_start_matches(' ');
    (!text.is_empty()).then(|| text.to_owned())
}

fn put(bytes: &mut Vec<u8>, element: u16, value: &[u8]) {
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&element.to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(value);
}

fn put_text(bytes: &mut Vec<u8>, element: u16, value: &str, pad: u8) {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(pad);
    }
    put(bytes, element, &value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_store_request_survives_the_wire() {
        let mut c = Command::request(CommandField::CStoreRq, 7, "1.2.840.10008.5.1.4.1.1.481.1");
        c.sop_instance_uid = Some("1.2.3".into());
        c.has_data_set = true;
        c.move_originator_ae = Some("NODE".into());
        c.move_originator_id = Some(3);
        assert_eq!(Command::parse(&c.to_bytes()).unwrap(), c);
    }

    #[test]
    fn a_command_set_cut_inside_an_element_is_an_error_with_its_offset() {
        let bytes = Command::request(CommandField::CEchoRq, 1, "1.2.840.10008.1.1").to_bytes();
        let mut boundary = 0;
        for end in 1..bytes.len() {
            if end == boundary + 8 + usize::from(bytes[boundary + 4]) {
                boundary = end;
                continue;
            }
            match Command::parse(&bytes[..end]) {
                Err(Error::Malformed { offset, .. }) => assert_eq!(offset, Some(boundary as u64)),
                other => panic!("cut at {end}: {other:?}"),
            }
        }
        assert!(boundary > 0, "the walk passed element boundaries");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_command_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Command::parse(&bytes);
        }
    }
}
