//! A storage SCU of our own, byte by byte: it sends what no peer would, and says exactly what was acknowledged.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::association::client::ClientAssociation;
use dicom_ul::association::{Association, ClientAssociationOptions, SyncAssociation};
use scp_node::dimse::{Command, CommandField, Status, message};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open association with one presentation context.
#[derive(Debug)]
pub struct Sender {
    association: ClientAssociation<TcpStream>,
    context_id: u8,
    pdu_length: u32,
    message_id: u16,
}

impl Sender {
    /// Associates for RT Images in implicit VR little endian.
    ///
    /// # Errors
    /// What dicom-ul says of a rejection or a dead peer.
    pub fn open(address: SocketAddr, called_ae: &str) -> io::Result<Self> {
        Self::open_for(address, called_ae, uids::RT_IMAGE_STORAGE, uids::IMPLICIT_VR_LITTLE_ENDIAN)
    }

    /// Associates for one SOP class and transfer syntax.
    ///
    /// # Errors
    /// As [`Sender::open`].
    pub fn open_for(
        address: SocketAddr,
        called_ae: &str,
        sop_class: &str,
        transfer_syntax: &str,
    ) -> io::Result<Self> {
        let mut association = ClientAssociationOptions::new()
            .calling_ae_title("SENDER")
            .called_ae_title(called_ae)
            .read_timeout(PATIENCE)
            .with_presentation_context(sop_class, vec![transfer_syntax])
            .establish(address)
            .map_err(io::Error::other)?;
        let context = association.presentation_contexts().first();
        let context_id = context.ok_or_else(|| io::Error::other("no presentation context was accepted"))?.id;
        let pdu_length = association.peer_max_pdu_length();
        association.inner_stream().set_nodelay(true)?;
        association.inner_stream().set_read_timeout(Some(PATIENCE))?;
        Ok(Self { association, context_id, pdu_length, message_id: 0 })
    }

    /// The bytes of a whole C-STORE-RQ with its data set.
    pub fn message(&mut self, sop_class: &str, sop_instance: &str, data_set: &[u8]) -> Vec<u8> {
        self.message_id = self.message_id.wrapping_add(1);
        let mut command = Command::request(CommandField::CStoreRq, self.message_id, sop_class);
        command.sop_instance_uid = Some(sop_instance.to_owned());
        command.has_data_set = true;
        message::encode(self.context_id, &command, data_set, self.pdu_length)
    }

    /// Stores an RT Image and waits for the status.
    ///
    /// # Errors
    /// When the peer goes away or stays silent.
    pub fn store(&mut self, sop_instance: &str, data_set: &[u8]) -> io::Result<Status> {
        self.store_as(uids::RT_IMAGE_STORAGE, sop_instance, data_set)
    }

    /// Stores an object of any class.
    ///
    /// # Errors
    /// As [`Sender::store`].
    pub fn store_as(&mut self, sop_class: &str, sop_instance: &str, data_set: &[u8]) -> io::Result<Status> {
        let bytes = self.message(sop_class, sop_instance, data_set);
        self.write(&bytes)?;
        self.status()
    }

    /// Writes raw bytes.
    ///
    /// # Errors
    /// The socket's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.association.inner_stream().write_all(bytes)
    }

    /// Writes piece by piece with a pause after each, until all is written or the peer has something to say; how many
    /// bytes were written.
    ///
    /// # Errors
    /// The socket's, when it cannot be told how long to wait.
    pub fn write_slowly(&mut self, bytes: &[u8], piece: usize, pause: Duration) -> io::Result<usize> {
        let stream = self.association.inner_stream();
        stream.set_read_timeout(Some(pause))?;
        let mut written = 0;
        for piece in bytes.chunks(piece) {
            if stream.write_all(piece).is_err() {
                break;
            }
            written += piece.len();
            // The end of the stream is something to say, too.
            if stream.peek(&mut [0]).is_ok() {
                break;
            }
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(written)
    }

    /// The connection, for what no message is.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.association.inner_stream()
    }

    /// Waits for a response's status.
    ///
    /// # Errors
    /// When the peer aborts, goes away or stays silent.
    pub fn status(&mut self) -> io::Result<Status> {
        read_status(self.association.inner_stream())
    }

    /// Releases the association.
    ///
    /// # Errors
    /// When the peer does not answer.
    pub fn release(self) -> io::Result<()> {
        SyncAssociation::release(self.association).map_err(io::Error::other)
    }
}

/// Reads P-DATA-TF PDUs up to a command set's last fragment, and gives its status.
///
/// # Errors
/// `ConnectionAborted` on another PDU, `InvalidData` on a response that is none, else the socket's.
pub fn read_status(stream: &mut TcpStream) -> io::Result<Status> {
    let mut command = Vec::new();
    loop {
        let mut head = [0; 6];
        stream.read_exact(&mut head)?;
        let [kind, _, length @ ..] = head;
        if kind != 0x04 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let mut pdu = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut pdu)?;
        let mut rest = pdu.as_slice();
        while let Some((head, tail)) = rest.split_first_chunk::<6>() {
            let [l0, l1, l2, l3, _, flags] = *head;
            let length = (u32::from_be_bytes([l0, l1, l2, l3]) as usize).saturating_sub(2);
            let (value, tail) = tail.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
            command.extend_from_slice(value);
            if flags & 0b10 != 0 {
                let command = Command::parse(&command).map_err(io::Error::other)?;
                return command.status.ok_or_else(|| io::ErrorKind::InvalidData.into());
            }
            rest = tail;
        }
    }
}
