//! A whole DIMSE message as bytes, so that it goes out in one write. Source: PS3.8 §9.3.5, annex E.

use super::Command;

/// A P-DATA-TF's header and its PDV's: 6 bytes, and length, context id and message control header. PS3.8 §9.3.5.1.
const OVERHEAD: usize = 12;
/// Message control header, bit 0: command. PS3.8 §E.2.
const COMMAND: u8 = 0b01;
/// Message control header, bit 1: last fragment.
const LAST: u8 = 0b10;
/// Fragment length where the peer announced no limit.
const UNLIMITED: usize = 128 * 1024;
/// Shortest fragment that is sent, whatever a peer announced: one byte a PDU would be a trap.
const SHORTEST: usize = 128;

/// The PDUs of a command set and of its data set, which may be empty.
///
/// # Arguments
/// * `pdu_length` — what the receiver announced as its maximum, bytes; 0 means no limit
pub fn encode(context_id: u8, command: &Command, data: &[u8], pdu_length: u32) -> Vec<u8> {
    let room =
        if pdu_length == 0 { UNLIMITED } else { (pdu_length as usize).saturating_sub(6).max(SHORTEST) };
    let command = command.to_bytes();
    let pieces = command.len() / room + data.len() / room + 2;
    let mut bytes = Vec::with_capacity(command.len() + data.len() + pieces * OVERHEAD);
    put(&mut bytes, context_id, COMMAND, &command, room);
    put(&mut bytes, context_id, 0, data, room);
    bytes
}

fn put(bytes: &mut Vec<u8>, context_id: u8, kind: u8, value: &[u8], room: usize) {
    let mut fragments = value.chunks(room).peekable();
    while let Some(fragment) = fragments.next() {
        let last = if fragments.peek().is_none() { LAST } else { 0 };
        let length = fragment.len() as u32 + 2;
        bytes.extend_from_slice(&[0x04, 0]);
        bytes.extend_from_slice(&(length + 4).to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&[context_id, kind | last]);
        bytes.extend_from_slice(fragment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dimse::CommandField;
    use dicom_ul::pdu::{PDataValueType, Pdu, read_pdu};

    #[test]
    fn dicom_ul_reads_what_is_encoded_within_the_announced_length() {
        let command = Command::request(CommandField::CFindRq, 1, "1.2.840.10008.5.1.4.1.2.2.1");
        let data: Vec<u8> = (0..10_000).map(|n| n as u8).collect();
        for length in [0, 4096, 16_384] {
            let bytes = encode(5, &command, &data, length);
            let (mut rest, mut commands, mut values) = (bytes.as_slice(), Vec::new(), Vec::new());
            while !rest.is_empty() {
                let pdu_length = u32::from_be_bytes(rest[2..6].try_into().unwrap());
                assert!(length == 0 || pdu_length <= length);
                let Some(Pdu::PData { data }) = read_pdu(rest, 1 << 20, true).unwrap() else {
                    panic!("no P-DATA")
                };
                rest = &rest[6 + pdu_length as usize..];
                for value in data {
                    assert_eq!(value.presentation_context_id, 5);
                    let kind = value.value_type == PDataValueType::Command;
                    if kind { &mut commands } else { &mut values }.extend(value.data);
                }
            }
            assert_eq!((commands, &values), (command.to_bytes(), &data));
        }
    }
}
