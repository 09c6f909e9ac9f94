//! One association, from its first command to its end, on a thread of its own.
//!
//! State: idle (between messages) -> command (its fragments are collected) -> data set (streams into an
//! [`Incoming`](crate::images::store::Incoming), or is read and dropped when the object was refused) -> idle. A fault ends
//! this association alone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dicom_dictionary_std::uids;
use dicom_ul::pdu::{AbortRQServiceProviderReason as Abort, AbortRQSource, Pdu, write_pdu};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::admission::{Accepted, Context};
use super::listener::Counters;
use super::patience::Patience;
use super::status::status_of;
use super::stream::{End, Event, Fragment, Stream};
use crate::dimse::{Command, CommandField, Reply, Status, message};
use crate::images::store::Incoming;
use crate::images::{Announced, Filed, Refusal, Store};
use crate::names::Uid;
use crate::settings::TimeoutSettings;

/// Longest command set of a request. Justification: a C-STORE-RQ has about 300 bytes.
const COMMAND_MAX: usize = 16 * 1024;

/// What an association did, for the log.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub stored: u64,
    pub refused: u64,
    pub echoes: u64,
    pub bytes: u64,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Released,
    Stopped,
    Ended(End),
}

pub(super) struct Association<'s> {
    pub stream: Stream,
    pub accepted: Accepted,
    pub store: &'s Store,
    pub timeouts: TimeoutSettings,
    pub tally: Tally,
    /// Of all associations, counted on as objects come.
    pub counters: &'s Counters,
}

/// A message whose command is read.
struct Message<'s> {
    command: Command,
    context: Context,
    object: Object<'s>,
}

/// What becomes of a data set.
enum Object<'s> {
    Taken(Box<Incoming<'s>>),
    Refused(Refusal),
    /// Not a C-STORE: read and dropped.
    Unwanted,
}

impl<'s> Association<'s> {
    /// Serves until the peer releases, something breaks, or `shutdown` finds it idle; [`Association::take_leave`] is to follow.
    pub(super) async fn serve(&mut self, shutdown: &CancellationToken) -> Outcome {
        loop {
            // Only between two messages may a stop come at once: what is being sent is finished first.
            let begun = tokio::select! {
                begun = self.stream.begin(seconds(self.timeouts.idle_s)) => begun,
                () = shutdown.cancelled() => break Outcome::Stopped,
            };
            let command = match begun {
                Ok(()) => self.command().await,
                Err(end) => Err(end),
            };
            let served = match command {
                Ok(Some(message)) => self.message(message, shutdown).await,
                Ok(None) => break Outcome::Released,
                Err(end) => Err(end),
            };
            match served {
                Ok(()) if shutdown.is_cancelled() => break Outcome::Stopped,
                Ok(()) => {}
                Err(end) => break Outcome::Ended(end),
            }
        }
    }

    /// The next command, whole; `None` when the peer releases.
    async fn command(&mut self) -> Result<Option<Message<'s>>, End> {
        let mut patience = Patience::new(seconds(self.timeouts.pdu_s));
        let mut bytes = Vec::new();
        loop {
            let fragment = match self.stream.event(&mut patience).await? {
                Event::Fragment(fragment) if fragment.is_command => fragment,
                Event::Fragment(_) => {
                    return Err(End::broken(Abort::UnexpectedPdu, "a data set without a command"));
                }
                Event::Release if bytes.is_empty() => return Ok(None),
                Event::Release | Event::Request(_) => {
                    return Err(End::broken(Abort::UnexpectedPdu, "another PDU in the middle of a command"));
                }
            };
            bytes.extend_from_slice(fragment.bytes);
            if bytes.len() > COMMAND_MAX {
                return Err(End::broken(Abort::InvalidPduParameter, "a command set over the limit"));
            }
            if fragment.is_last {
                let id = fragment.context_id;
                let command = Command::parse(&bytes)
                    .map_err(|e| End::broken(Abort::InvalidPduParameter, e.to_string()))?;
                return self.begin(command, id).map(Some);
            }
        }
    }

    fn begin(&self, command: Command, id: u8) -> Result<Message<'s>, End> {
        let context = self.accepted.contexts.iter().find(|c| c.id == id).cloned();
        let Some(context) = context else {
            let what = format!("presentation context {id} was not accepted");
            return Err(End::broken(Abort::UnexpectedPduParameter, what));
        };
        let object = match command.field {
            CommandField::CStoreRq => self.begin_object(&command, &context),
            _ => Object::Unwanted,
        };
        Ok(Message { command, context, object })
    }

    fn begin_object(&self, command: &Command, context: &Context) -> Object<'s> {
        let class = command.sop_class_uid.clone().unwrap_or_default();
        // Verification is negotiated as well, and stores nothing.
        if class != context.abstract_syntax || class == uids::VERIFICATION {
            // Foreign text, which may be anything, gets into no log.
            let named = Uid::new(&class).map_or_else(|| "that is no UID".into(), |uid| uid.to_string());
            return Object::Refused(Refusal::ClassNotTaken(named));
        }
        let announced = Announced {
            sop_class_uid: class,
            sop_instance_uid: command.sop_instance_uid.clone().unwrap_or_default(),
            transfer_syntax_uid: context.transfer_syntax.clone(),
            calling_ae: self.accepted.calling_ae.clone(),
        };
        match self.store.begin(announced) {
            Ok(incoming) => Object::Taken(Box::new(incoming)),
            Err(refusal) => Object::Refused(refusal),
        }
    }

    async fn message(&mut self, message: Message<'s>, shutdown: &CancellationToken) -> Result<(), End> {
        let Message { command, context, mut object } = message;
        if command.has_data_set {
            let before = self.tally.bytes;
            let whole = self.data_set(context.id, &mut object, shutdown).await;
            self.counters.bytes.fetch_add(self.tally.bytes - before, Ordering::Relaxed);
            whole?;
        }
        let (field, reply) = match command.field {
            CommandField::CEchoRq => {
                self.tally.echoes += 1;
                (CommandField::CEchoRsp, Reply { status: Status::SUCCESS, comment: None })
            }
            CommandField::CStoreRq => (CommandField::CStoreRsp, self.stored(&command, object).await),
            // A C-CANCEL concerns an operation that is over by now: PS3.7 §9.3.2.3 has no answer to it.
            CommandField::CCancelRq => return Ok(()),
            response if response.code() & 0x8000 != 0 => {
                return Err(End::broken(
                    Abort::UnexpectedPduParameter,
                    "a response, though we asked for nothing",
                ));
            }
            other => {
                let response = CommandField::from_code(other.code() | 0x8000);
                (response, Reply { status: Status::UNRECOGNIZED_OPERATION, comment: None })
            }
        };
        let bytes = message::encode(context.id, &command.reply(field, &reply), &[], self.accepted.pdu_length);
        self.write(&bytes).await
    }

    /// Reads a data set to its end, whatever becomes of it: a sender that is refused still gets its status.
    async fn data_set(
        &mut self,
        context_id: u8,
        object: &mut Object<'s>,
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        let mut patience = Patience::new(seconds(self.timeouts.pdu_s));
        loop {
            // A sender that is faster than our disk never makes us wait, and the drain deadline is looked at while we wait.
            if shutdown.is_cancelled() {
                tokio::task::yield_now().await;
            }
            let placed = match object {
                Object::Taken(incoming) => self.stream.read_into(incoming.room(), &mut patience).await?,
                _ => None,
            };
            let (is_last, bytes, taken) = if let Some(placed) = placed {
                is_of(context_id, placed.context_id, false)?;
                let taken = match object {
                    Object::Taken(incoming) => incoming.take(placed.bytes),
                    _ => Ok(()),
                };
                (placed.is_last, placed.bytes, taken)
            } else {
                let Event::Fragment(fragment) = self.stream.event(&mut patience).await? else {
                    return Err(End::broken(Abort::UnexpectedPdu, "another PDU in the middle of a data set"));
                };
                let Fragment { is_command, is_last, bytes, context_id: id } = fragment;
                is_of(context_id, id, is_command)?;
                let taken = match object {
                    Object::Taken(incoming) => incoming.write(bytes),
                    _ => Ok(()),
                };
                (is_last, bytes.len(), taken)
            };
            self.tally.bytes += bytes as u64;
            if let Err(refusal) = taken {
                *object = Object::Refused(refusal);
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn stored(&mut self, command: &Command, object: Object<'s>) -> Reply {
        let outcome = match object {
            Object::Taken(incoming) if command.has_data_set => incoming.finish(),
            Object::Taken(_) | Object::Unwanted => Err(Refusal::Mismatch("no data set".into())),
            Object::Refused(refusal) => Err(refusal),
        };
        match outcome {
            Ok(filed) => {
                self.tally.stored += 1;
                self.counters.stored.fetch_add(1, Ordering::Relaxed);
                let uid = command.sop_instance_uid.as_deref().unwrap_or_default();
                tracing::debug!(calling = %self.accepted.calling_ae, uid, new = matches!(filed, Filed::New { .. }), "stored");
                Reply { status: Status::SUCCESS, comment: None }
            }
            Err(refusal) => {
                self.tally.refused += 1;
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                let reply = status_of(&refusal);
                tracing::warn!(calling = %self.accepted.calling_ae, status = %reply.status, %refusal, "object refused");
                reply
            }
        }
    }

    /// Writes with the PDU time limit: a peer that does not read must not hold us.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let wait = seconds(self.timeouts.pdu_s);
        match tokio::time::timeout(wait, self.stream.socket().write_all(bytes)).await {
            Ok(written) => written.map_err(End::Lost),
            Err(_) => Err(End::Late(wait)),
        }
    }

    /// Answers a release, aborts where we end it. Source: PS3.8 §7.2 to §7.4.
    pub(super) async fn take_leave(&mut self, outcome: &Outcome) {
        let pdu = match outcome {
            Outcome::Released => Pdu::ReleaseRP,
            Outcome::Stopped => abort(Abort::ReasonNotSpecified),
            Outcome::Ended(End::Broken { reason, .. }) => abort(reason.clone()),
            Outcome::Ended(End::Late(_)) => abort(Abort::ReasonNotSpecified),
            Outcome::Ended(End::Closed | End::Aborted | End::Lost(_)) => return,
        };
        say(&mut self.stream, &pdu).await;
    }
}

/// Whether a fragment belongs to the data set of this context.
fn is_of(context_id: u8, fragment: u8, is_command: bool) -> Result<(), End> {
    if is_command || fragment != context_id {
        let what = "a fragment of another message in a data set";
        return Err(End::broken(Abort::UnexpectedPduParameter, what));
    }
    Ok(())
}

fn abort(reason: Abort) -> Pdu {
    Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(reason) }
}

/// How long a last word and the closing after it may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Says a last PDU and closes in order: what the peer still sends is read, so that no RST swallows what we said.
pub(super) async fn say(stream: &mut Stream, pdu: &Pdu) {
    let mut bytes = Vec::new();
    if write_pdu(&mut bytes, pdu).is_err() {
        return;
    }
    let close = async {
        let socket = stream.socket();
        socket.write_all(&bytes).await?;
        socket.shutdown().await?;
        let mut rest = [0; 4096];
        while tokio::io::AsyncReadExt::read(socket, &mut rest).await? > 0 {}
        Ok::<(), std::io::Error>(())
    };
    let _ = tokio::time::timeout(LAST_WORD, close).await;
}

pub(super) fn abort_of(end: &End) -> Option<Pdu> {
    match end {
        End::Broken { reason, .. } => Some(abort(reason.clone())),
        _ => None,
    }
}

/// Settings are checked to be finite and in range.
pub(super) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60))
}
