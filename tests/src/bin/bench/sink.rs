//! A receiver that looks at nothing, so that what is measured is the sender: it acknowledges each object when its last byte is read, or
//! when its bytes are kept.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dicom_ul::pdu::{
    AssociationAC, Pdu, PresentationContextResult, PresentationContextResultReason, UserVariableItem,
    read_pdu, write_pdu,
};
use scp_node::dimse::{Command, CommandField, Reply, Status, message};

use super::disk::Pattern;

/// As the node's.
const PDU_LENGTH: u32 = 128 * 1024;

/// What becomes of the bytes.
#[derive(Debug)]
struct Shelf {
    /// `None`: they are dropped.
    pattern: Option<Pattern>,
    next: AtomicUsize,
}

impl Shelf {
    fn begin(&self) -> std::io::Result<Kept<'_>> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.pattern.as_ref().map(|p| p.create(n).map(|file| (p, file))).transpose()?;
        Ok(Kept { n, file })
    }
}

/// An object on its way in.
struct Kept<'s> {
    n: usize,
    file: Option<(&'s Pattern, File)>,
}

impl Kept<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |(_, file)| file.write_all(bytes))
    }

    fn finish(self) -> std::io::Result<()> {
        self.file.map_or(Ok(()), |(pattern, file)| pattern.finish(self.n, file))
    }
}

/// Serves for ever; without a pattern it keeps nothing.
pub(crate) fn run(port: u16, pattern: Option<Pattern>) -> ! {
    let shelf = Arc::new(Shelf { pattern, next: AtomicUsize::new(0) });
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    loop {
        let (socket, _) = listener.accept().unwrap();
        // A sender that goes away ends its own thread.
        let shelf = Arc::clone(&shelf);
        std::thread::spawn(move || drop(serve(socket, &shelf)));
    }
}

struct Connection {
    socket: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

fn serve(socket: TcpStream, shelf: &Shelf) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut peer = Connection { socket, buffer: vec![0; PDU_LENGTH as usize], start: 0, end: 0 };
    let mut command = Vec::new();
    let mut last: Option<Command> = None;
    let mut object = None;
    loop {
        let [kind, _, length @ ..] = peer.take::<6>()?;
        let mut left = u32::from_be_bytes(length) as usize;
        match kind {
            0x01 => {
                let mut pdu = vec![kind, 0];
                pdu.extend(length);
                peer.pass(left, |bytes| {
                    pdu.extend_from_slice(bytes);
                    Ok(())
                })?;
                accept(&mut peer.socket, &pdu)?;
            }
            0x04 => {
                while left > 0 {
                    let [a, b, c, d, context_id, control] = peer.take::<6>()?;
                    let value = u32::from_be_bytes([a, b, c, d]) as usize - 2;
                    left -= value + 6;
                    if control & 1 != 0 {
                        peer.pass(value, |bytes| {
                            command.extend_from_slice(bytes);
                            Ok(())
                        })?;
                    } else {
                        let object = match &mut object {
                            Some(object) => object,
                            none => none.insert(shelf.begin()?),
                        };
                        peer.pass(value, |bytes| object.write(bytes))?;
                    }
                    if control == 3 {
                        last = Some(Command::parse(&command).map_err(std::io::Error::other)?);
                        command.clear();
                    }
                    if control == 2
                        && let Some((command, object)) = last.take().zip(object.take())
                    {
                        object.finish()?;
                        let reply = Reply { status: Status::SUCCESS, comment: None };
                        let answer = command.reply(CommandField::CStoreRsp, &reply);
                        peer.socket.write_all(&message::encode(context_id, &answer, &[], PDU_LENGTH))?;
                    }
                }
            }
            _ => {
                let mut bytes = Vec::new();
                write_pdu(&mut bytes, &Pdu::ReleaseRP).map_err(std::io::Error::other)?;
                return peer.socket.write_all(&bytes);
            }
        }
    }
}

/// Takes every context, in its first transfer syntax.
fn accept(socket: &mut TcpStream, request: &[u8]) -> std::io::Result<()> {
    let Ok(Some(Pdu::AssociationRQ(request))) = read_pdu(request, PDU_LENGTH, true) else {
        return Err(ErrorKind::InvalidData.into());
    };
    let contexts = request.presentation_contexts.iter().map(|proposed| PresentationContextResult {
        id: proposed.id,
        reason: PresentationContextResultReason::Acceptance,
        transfer_syntax: proposed.transfer_syntaxes.first().cloned().unwrap_or_default(),
    });
    let reply = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: request.application_context_name.clone(),
        presentation_contexts: contexts.collect(),
        user_variables: vec![UserVariableItem::MaxLength(PDU_LENGTH)],
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &Pdu::AssociationAC(reply)).map_err(std::io::Error::other)?;
    socket.write_all(&bytes)
}

impl Connection {
    fn take<const N: usize>(&mut self) -> std::io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        self.pass(N, |piece| {
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
            Ok(())
        })?;
        Ok(bytes)
    }

    /// So many bytes, piece by piece.
    fn pass(
        &mut self,
        mut bytes: usize,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        while bytes > 0 {
            if self.start == self.end {
                // At once, as the node does: a sender that keeps Nagle's algorithm on waits for it.
                #[cfg(target_os = "linux")]
                socket2::SockRef::from(&self.socket).set_tcp_quickack(true)?;
                (self.start, self.end) = (0, self.socket.read(&mut self.buffer)?);
                if self.end == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            let piece = bytes.min(self.end - self.start);
            take(&self.buffer[self.start..self.start + piece])?;
            self.start += piece;
            bytes -= piece;
        }
        Ok(())
    }
}
