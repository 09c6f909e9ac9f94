//! Packets and messages (MS-TDS §2.2.3), with TLS inside or around them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::ServerConnection;

/// A message that asks for nothing larger is never larger.
const LONGEST_MESSAGE: usize = 16 << 20;
const HEADER: usize = 8;

/// Kinds of messages (MS-TDS §2.2.3.1.1).
pub(super) const BATCH: u8 = 0x01;
pub(super) const CALL: u8 = 0x03;
const ANSWER: u8 = 0x04;
pub(super) const ATTENTION: u8 = 0x06;
pub(super) const LOGIN7: u8 = 0x10;
pub(super) const PRELOGIN: u8 = 0x12;

/// A connection that speaks in messages.
pub(super) struct Wire {
    stream: TcpStream,
    tls: Option<ServerConnection>,
    packet_size: usize,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, tls: None, packet_size: 4096 }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn set_packet_size(&mut self, size: usize) {
        self.packet_size = size.clamp(512, 32_767);
    }

    /// One message: its kind and what its packets hold; `None` when the client has gone.
    pub(super) fn read_message(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut message = Vec::new();
        loop {
            let mut header = [0; HEADER];
            if !self.read_whole(&mut header)? {
                return Ok(None);
            }
            let [kind, status, high, low, ..] = header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            let mut body = vec![0; length.checked_sub(HEADER).ok_or(io::ErrorKind::InvalidData)?];
            if !self.read_whole(&mut body)? || message.len() > LONGEST_MESSAGE {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            message.extend(body);
            if status & 1 == 1 {
                return Ok(Some((kind, message)));
            }
        }
    }

    /// An answer, in as many packets as it needs.
    pub(super) fn write_message(&mut self, message: &[u8]) -> io::Result<()> {
        let packets = self.packets(ANSWER, message);
        self.write_bytes(&packets)
    }

    /// Half an answer.
    pub(super) fn write_first_half(&mut self, message: &[u8]) -> io::Result<()> {
        let packets = self.packets(ANSWER, message);
        self.write_bytes(packets.split_at(packets.len() / 2).0)?;
        self.stream.shutdown(Shutdown::Both)
    }

    fn packets(&self, kind: u8, message: &[u8]) -> Vec<u8> {
        let n = message.len().div_ceil(self.packet_size - HEADER).max(1);
        let mut bytes = Vec::with_capacity(message.len() + n * HEADER);
        let mut parts = message.chunks(self.packet_size - HEADER);
        for number in 1..=n {
            let part = parts.next().unwrap_or_default();
            let length = u16::try_from(part.len() + HEADER).unwrap();
            bytes.extend([kind, u8::from(number == n)]);
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0, number.to_le_bytes()[0], 0]);
            bytes.extend(part);
        }
        bytes
    }

    /// The TLS handshake, each of its flights in a PRELOGIN message (MS-TDS §2.2.6.5).
    pub(super) fn start_tls(&mut self, mut tls: ServerConnection) -> io::Result<()> {
        while tls.is_handshaking() {
            let (kind, flight) = self.read_message()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if kind != PRELOGIN {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut rest = flight.as_slice();
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets().map_err(io::Error::other)?;
            }
            let mut flight = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut flight)?;
            }
            if !flight.is_empty() {
                let packets = self.packets(PRELOGIN, &flight);
                self.stream.write_all(&packets)?;
            }
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// What follows is not encrypted.
    pub(super) fn end_tls(&mut self) {
        self.tls = None;
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.stream).write_all(bytes),
            None => self.stream.write_all(bytes),
        }
    }

    /// False if nothing came any more.
    fn read_whole(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let read = match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, &mut self.stream).read_exact(bytes),
            None => self.stream.read_exact(bytes),
        };
        match read {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Reads little-endian values one after the other.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn unsigned(&mut self, n: usize) -> Option<u64> {
        Some(self.bytes(n)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    pub(super) fn size(&mut self, n: usize) -> Option<usize> {
        usize::try_from(self.unsigned(n)?).ok()
    }

    /// UTF-16 text of `n` code units.
    pub(super) fn text(&mut self, n: usize) -> Option<String> {
        Some(text(self.bytes(n.checked_mul(2)?)?))
    }
}

pub(super) fn text(utf16: &[u8]) -> String {
    let units: Vec<u16> =
        utf16.chunks_exact(2).filter_map(|u| Some(u16::from_le_bytes(*u.first_chunk()?))).collect();
    String::from_utf16_lossy(&units)
}

/// UTF-16, little-endian.
pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Text with the number of its code units in one byte before it.
pub(super) fn b_varchar(text: &str) -> Vec<u8> {
    let units = utf16(text);
    [vec![u8::try_from(units.len() / 2).unwrap()], units].concat()
}

/// Text with the number of its code units in two bytes before it.
pub(super) fn us_varchar(text: &str) -> Vec<u8> {
    let units = utf16(text);
    [u16::try_from(units.len() / 2).unwrap().to_le_bytes().to_vec(), units].concat()
}
