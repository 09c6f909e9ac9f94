//! One association as requestor: negotiation, and whole DIMSE messages in both directions.
//!
//! Input: the PDUs of an archive, none of which is trusted: lengths are bounded, silence ends in a time-out.
//! NODELAY, acknowledgement at once, and one write per message: a peer that keeps Nagle on costs no 44 ms a message.
//! Cancel-safe: read bytes belong to the association, not to the future. Dropping it aborts the association.

use std::fmt;
use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason,
    UserVariableItem, read_pdu, write_pdu,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::explain;
use crate::dimse::command::COMMAND_SET_MAX;
use crate::dimse::identity::{APPLICATION_CONTEXT, IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION};
use crate::dimse::{Command, Identifier, message};
use crate::error::{Error, Result};
use crate::names::AeTitle;
use crate::scp::ack;

/// The one transfer syntax that every application entity must take. PS3.5 §10.1.
const IMPLICIT_LE: &str = "1.2.840.10008.1.2";
/// Longest PDU that we take. Justification: answers have a few hundred bytes; 64 KiB spares none of them a second PDU.
const PDU_MAX: u32 = 64 * 1024;
/// Longest data set of one answer. Justification: real answers stay below 4 KiB.
const ANSWER_MAX: usize = 1 << 20;
/// Whom we talk to, as errors and logs name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its AE title.
    pub ae_title: AeTitle,
    /// Host and port.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.ae_title, self.address)
    }
}

/// What an association shall be.
#[derive(Debug, Clone)]
pub(super) struct Proposal<'a> {
    pub peer: Peer,
    pub host: &'a str,
    pub port: u16,
    pub calling: &'a AeTitle,
    pub abstract_syntaxes: &'a [&'a str],
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
}

/// An established association.
#[derive(Debug)]
pub struct Association {
    stream: TcpStream,
    received: Vec<u8>,
    peer: Peer,
    contexts: Vec<(u8, String)>,
    /// What the archive takes at most, 0 for any length.
    pdu_length: u32,
    response_timeout: Duration,
    message_id: u16,
    /// Something has come since the last request.
    answered: bool,
    over: bool,
    /// What the archive says it is: implementation class UID and version name.
    pub implementation: (Option<String>, Option<String>),
}

impl Association {
    /// Connects and negotiates.
    pub(super) async fn establish(proposal: &Proposal<'_>) -> Result<Self> {
        let stream = connect(proposal).await?;
        let mut association = Self {
            stream,
            received: Vec::new(),
            peer: proposal.peer.clone(),
            contexts: Vec::new(),
            pdu_length: 0,
            response_timeout: proposal.response_timeout,
            message_id: 0,
            answered: false,
            over: false,
            implementation: (None, None),
        };
        let seconds = proposal.connect_timeout.as_secs_f64();
        timeout(proposal.connect_timeout, association.negotiate(proposal))
            .await
            .unwrap_or_else(|_| Err(explain::associate_timeout(&proposal.peer, seconds)))?;
        Ok(association)
    }

    async fn negotiate(&mut self, proposal: &Proposal<'_>) -> Result<()> {
        let presentation_contexts = (0_u8..)
            .zip(proposal.abstract_syntaxes)
            .map(|(n, abstract_syntax)| PresentationContextProposed {
                id: n * 2 + 1,
                abstract_syntax: (*abstract_syntax).to_owned(),
                transfer_syntaxes: vec![IMPLICIT_LE.to_owned()],
            })
            .collect();
        let request = AssociationRQ {
            protocol_version: 1,
            calling_ae_title: proposal.calling.as_str().to_owned(),
            called_ae_title: proposal.peer.ae_title.as_str().to_owned(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts,
            user_variables: vec![
                UserVariableItem::MaxLength(PDU_MAX),
                UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.to_owned()),
                UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.to_owned()),
            ],
        };
        self.write_pdu(&Pdu::AssociationRQ(request)).await?;
        match self.next_pdu().await? {
            Pdu::AssociationAC(accepted) => {
                self.contexts = accepted
                    .presentation_contexts
                    .iter()
                    .filter(|c| c.reason == PresentationContextResultReason::Acceptance)
                    .filter_map(|c| {
                        let index = usize::from(c.id.checked_sub(1)? / 2);
                        Some((c.id, (*proposal.abstract_syntaxes.get(index)?).to_owned()))
                    })
                    .collect();
                for item in accepted.user_variables {
                    match item {
                        UserVariableItem::MaxLength(length) => self.pdu_length = length,
                        UserVariableItem::ImplementationClassUID(uid) => self.implementation.0 = Some(uid),
                        UserVariableItem::ImplementationVersionName(name) => {
                            self.implementation.1 = Some(name)
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Pdu::AssociationRJ(rejection) => {
                self.over = true;
                Err(explain::rejected(&self.peer, proposal.calling, &rejection))
            }
            other => Err(explain::unexpected(
                &self.peer,
                &format!("it answers an association request with {}", kind(&other)),
            )),
        }
    }

    /// Whom this association is with.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// How long the archive may be silent.
    pub(super) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Whether the archive accepted this SOP class.
    pub fn offers(&self, abstract_syntax: &str) -> bool {
        self.contexts.iter().any(|(_, a)| a == abstract_syntax)
    }

    /// A message id that is not in use on this association.
    pub(super) fn next_message_id(&mut self) -> u16 {
        self.message_id = self.message_id.checked_add(1).unwrap_or(1);
        self.message_id
    }

    /// Sends one message in one write.
    pub(super) async fn send(&mut self, command: &Command, identifier: Option<&Identifier>) -> Result<()> {
        let class = command.sop_class_uid.as_deref().unwrap_or_default();
        let context = self.contexts.iter().find(|(_, a)| a == class).map(|(id, _)| *id);
        let context = context.ok_or_else(|| explain::no_context(&self.peer, service_name(class)))?;
        let data = identifier.map(Identifier::to_bytes).unwrap_or_default();
        let bytes = message::encode(context, command, &data, self.pdu_length);
        self.answered = false;
        self.write(&bytes).await
    }

    /// Whether this error of the last request only says that the archive had ended the association before, while we did
    /// not use it: then the same may be asked over a new one.
    pub(crate) fn ended_idle(&self, error: &Error) -> bool {
        let is_end = matches!(error, Error::Unreachable { .. } | Error::PeerMisbehaved { .. });
        is_end && self.message_id > 1 && !self.answered
    }

    /// Receives one whole message. When the peer was silent for the response time, `is_alive` says whether to wait on.
    ///
    /// Cancelling it in the middle of a message leaves the association unusable but for C-CANCEL and the abort.
    pub(super) async fn receive(
        &mut self,
        what: &str,
        mut is_alive: impl FnMut() -> bool,
    ) -> Result<(Command, Vec<u8>)> {
        let limit = self.response_timeout;
        let mut command_set = Vec::new();
        let mut command: Option<Command> = None;
        let mut data = Vec::new();
        loop {
            let pdu = match timeout(limit, self.next_pdu()).await {
                Ok(pdu) => pdu?,
                Err(_) if is_alive() => continue,
                Err(_) => return Err(explain::response_timeout(&self.peer, what, limit.as_secs_f64())),
            };
            let values = match pdu {
                Pdu::PData { data } => {
                    self.answered = true;
                    data
                }
                Pdu::AbortRQ { source } => {
                    self.over = true;
                    return Err(explain::aborted(
                        &self.peer,
                        matches!(source, AbortRQSource::ServiceProvider(_)),
                    ));
                }
                other => {
                    return Err(explain::unexpected(
                        &self.peer,
                        &format!("it sent {} unasked", kind(&other)),
                    ));
                }
            };
            for value in values {
                let is_command = value.value_type == dicom_ul::pdu::PDataValueType::Command;
                let (target, most) =
                    if is_command { (&mut command_set, COMMAND_SET_MAX) } else { (&mut data, ANSWER_MAX) };
                if is_command == command.is_some() {
                    return Err(explain::unexpected(
                        &self.peer,
                        "its command and data fragments are out of order",
                    ));
                }
                if target.len() + value.data.len() > most {
                    return Err(Error::Limit {
                        what: "the length of an archive's answer",
                        limit: most as u64,
                        found: (target.len() + value.data.len()) as u64,
                    });
                }
                target.extend_from_slice(&value.data);
                if !value.is_last {
                    continue;
                }
                match command.take() {
                    Some(command) => return Ok((command, data)),
                    None => {
                        let parsed =
                            Command::parse(&command_set).map_err(|e| explain::damaged(&self.peer, &e))?;
                        if !parsed.has_data_set {
                            return Ok((parsed, data));
                        }
                        command = Some(parsed);
                    }
                }
            }
        }
    }

    /// Ends the association in order; an archive that does not answer is left alone.
    pub async fn release(mut self) {
        self.over = true;
        if self.write_pdu(&Pdu::ReleaseRQ).await.is_ok() {
            // Whatever comes, or nothing: the work is done, and closing tells the rest.
            let _ = timeout(Duration::from_millis(200), self.next_pdu()).await;
        }
    }

    async fn next_pdu(&mut self) -> Result<Pdu> {
        loop {
            let mut rest = self.received.as_slice();
            let read = read_pdu(&mut rest, PDU_MAX, true)
                .map_err(|e| explain::unexpected(&self.peer, &format!("its bytes are no DICOM PDU ({e})")))?;
            if let Some(pdu) = read {
                let used = self.received.len() - rest.len();
                self.received.drain(..used);
                return Ok(pdu);
            }
            let n = self
                .stream
                .read_buf(&mut self.received)
                .await
                .map_err(|e| explain::lost(&self.peer, Some(&e)))?;
            ack::now(&self.stream);
            if n == 0 {
                self.over = true;
                return Err(explain::lost(&self.peer, None));
            }
        }
    }

    async fn write_pdu(&mut self, pdu: &Pdu) -> Result<()> {
        let mut bytes = Vec::with_capacity(512);
        write_pdu(&mut bytes, pdu).map_err(|e| Error::Misuse {
            what: format!("a PDU cannot be written: {e}"),
            hint: String::new(),
        })?;
        self.write(&bytes).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let limit = self.response_timeout;
        timeout(limit, self.stream.write_all(bytes))
            .await
            .map_err(|_| explain::response_timeout(&self.peer, "our request", limit.as_secs_f64()))?
            .map_err(|e| explain::lost(&self.peer, Some(&e)))
    }
}

impl Drop for Association {
    fn drop(&mut self) {
        if !self.over {
            // A-ABORT by the service user, PS3.8 §9.3.8: the archive stops at once instead of at its own time-out.
            let _ = self.stream.try_write(&[7, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        }
    }
}

async fn connect(proposal: &Proposal<'_>) -> Result<TcpStream> {
    let seconds = proposal.connect_timeout.as_secs_f64();
    let connecting = async {
        let addresses = tokio::net::lookup_host((proposal.host, proposal.port))
            .await
            .map_err(|e| explain::unknown_host(&proposal.peer, &e))?;
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                // A name may have an address of a protocol that this machine does not speak: that says less than a refusal.
                Err(_) if last.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) => last = error,
            }
        }
        Err(explain::unreachable(&proposal.peer, &last))
    };
    let stream = timeout(proposal.connect_timeout, connecting)
        .await
        .unwrap_or_else(|_| Err(explain::connect_timeout(&proposal.peer, seconds)))?;
    stream.set_nodelay(true).map_err(|e| explain::lost(&proposal.peer, Some(&e)))?;
    ack::always(&stream);
    ack::now(&stream);
    Ok(stream)
}

fn service_name(class: &str) -> &'static str {
    match class {
        super::VERIFICATION => "C-ECHO (Verification)",
        super::STUDY_ROOT_FIND => "C-FIND (Study Root)",
        super::STUDY_ROOT_MOVE => "C-MOVE (Study Root)",
        _ => "this service",
    }
}

fn kind(pdu: &Pdu) -> &'static str {
    match pdu {
        Pdu::AssociationRQ(_) => "an association request",
        Pdu::AssociationAC(_) => "an association acceptance",
        Pdu::AssociationRJ(_) => "a rejection",
        Pdu::PData { .. } => "data",
        Pdu::ReleaseRQ => "a release request",
        Pdu::ReleaseRP => "a release",
        Pdu::AbortRQ { .. } => "an abort",
        Pdu::Unknown { .. } => "an unknown PDU",
    }
}
