//! DIMSE messages over an association of dicom-ul: one write for a whole message, one value for a whole message read.

use std::io;

use dicom_ul::association::AsyncAssociation;
use dicom_ul::pdu::{PDataValueType, Pdu};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::dimse::{Command, message};

/// Longest identifier that is read; the simulator gets queries and responses, never images.
const DATA_MAX: usize = 4 << 20;

/// What came over an association.
#[derive(Debug)]
pub(super) enum Message {
    /// A command and its data set.
    Dimse {
        /// Presentation context.
        context_id: u8,
        /// Command set.
        command: Command,
        /// Data set, empty when none follows.
        data: Vec<u8>,
    },
    /// The peer wants to release the association.
    Release,
    /// The peer is gone or aborted.
    Gone,
}

/// Sends a whole message in one write.
pub(super) async fn send_message(
    association: &mut (impl AsyncAssociation<TcpStream> + Send),
    context_id: u8,
    command: &Command,
    data: &[u8],
) -> io::Result<()> {
    let bytes = message::encode(context_id, command, data, association.peer_max_pdu_length());
    association.inner_stream().write_all(&bytes).await
}

/// Reads PDUs up to the end of a message.
///
/// Cancel-safe between PDUs only while a message is cut into several: callers that poll do so between messages.
///
/// # Errors
/// What dicom-ul says, or a data set over 4 MiB.
pub(super) async fn receive_message(
    association: &mut (impl AsyncAssociation<TcpStream> + Send),
) -> io::Result<Message> {
    let mut command_bytes = Vec::new();
    let mut command: Option<Command> = None;
    let mut data = Vec::new();
    loop {
        let values = match AsyncAssociation::receive(association).await.map_err(io::Error::other) {
            Ok(Pdu::PData { data }) => data,
            Ok(Pdu::ReleaseRQ) => return Ok(Message::Release),
            Ok(_) => return Ok(Message::Gone),
            Err(error) if command.is_none() && command_bytes.is_empty() => {
                return if closed(&error) { Ok(Message::Gone) } else { Err(error) };
            }
            Err(error) => return Err(error),
        };
        for value in values {
            let context_id = value.presentation_context_id;
            if value.value_type == PDataValueType::Command {
                command_bytes.extend_from_slice(&value.data);
                if value.is_last {
                    let parsed = Command::parse(&command_bytes).map_err(io::Error::other)?;
                    if !parsed.has_data_set {
                        return Ok(Message::Dimse { context_id, command: parsed, data });
                    }
                    command = Some(parsed);
                }
            } else {
                data.extend_from_slice(&value.data);
                if value.is_last
                    && let Some(command) = command.take()
                {
                    return Ok(Message::Dimse { context_id, command, data });
                }
            }
            if data.len() + command_bytes.len() > DATA_MAX {
                return Err(io::Error::other("a message over the simulator's limit"));
            }
        }
    }
}

fn closed(error: &io::Error) -> bool {
    use dicom_ul::association::Error as Ul;
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Ul>());
    matches!(inner, Some(Ul::ConnectionClosed { .. } | Ul::ReceivePdu { .. }))
}
