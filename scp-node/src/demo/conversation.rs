//! One association with the simulated Aria: C-ECHO, C-FIND, C-MOVE, with the faults that are set, each put on record.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_ul::association::server::AccessControl;
use dicom_ul::association::{AsyncServerAssociation, ServerAssociationOptions};
use dicom_ul::pdu::{AssociationRJServiceUserReason, UserIdentity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::archive::{Asked, Shared};
use super::faults::{Rejection, take_one};
use super::message::{Message, receive_message, send_message};
use super::mover::Mover;
use super::patient::Instance;
use super::query;
use crate::dimse::{Command, CommandField, Reply, Status};

/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
const PDU_LENGTH: u32 = 128 * 1024;

/// Counts an association until its end, however that comes.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        let mut state = shared.state();
        state.associations += 1;
        state.open += 1;
        drop(state);
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state().open -= 1;
    }
}

/// Calling AE titles must be on the list.
#[derive(Debug)]
struct TrustedOnly(Vec<String>);

impl AccessControl for TrustedOnly {
    fn check_access(
        &self,
        this_ae_title: &str,
        calling_ae_title: &str,
        called_ae_title: &str,
        _user_identity: Option<&UserIdentity>,
    ) -> Result<(), AssociationRJServiceUserReason> {
        if called_ae_title.trim() != this_ae_title {
            Err(AssociationRJServiceUserReason::CalledAETitleNotRecognized)
        } else if !self.0.iter().any(|t| t == calling_ae_title.trim()) {
            Err(AssociationRJServiceUserReason::CallingAETitleNotRecognized)
        } else {
            Ok(())
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(mut socket: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let faults = shared.faults();
    if faults.silent {
        tokio::time::sleep(IDLE).await;
        return Ok(());
    }
    if let Some(rejection) = faults.reject {
        return reject(&mut socket, rejection).await;
    }
    let trusted = shared.state().trusted.keys().cloned().collect();
    let mut options = ServerAssociationOptions::new()
        .ae_access_control(TrustedOnly(trusted))
        .ae_title(shared.ae_title.as_str())
        .with_abstract_syntax(uids::VERIFICATION)
        .with_abstract_syntax(uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND)
        .with_transfer_syntax(uids::IMPLICIT_VR_LITTLE_ENDIAN)
        .max_pdu_length(PDU_LENGTH)
        .read_timeout(IDLE)
        .write_timeout(IDLE);
    if !faults.move_not_offered {
        options = options.with_abstract_syntax(uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_MOVE);
    }
    let association = options.establish_async(socket).await.map_err(io::Error::other)?;
    let open = Arc::clone(&shared);
    let _open = Open::new(&open);
    let calling_ae = dicom_ul::association::Association::peer_ae_title(&association).trim().to_owned();
    Conversation { association, shared, calling_ae }.run().await
}

async fn reject(socket: &mut TcpStream, rejection: Rejection) -> io::Result<()> {
    let mut head = [0; 6];
    socket.read_exact(&mut head).await?;
    let [_, _, length @ ..] = head;
    let length = u64::from(u32::from_be_bytes(length)).min(1 << 20);
    tokio::io::copy(&mut (&mut *socket).take(length), &mut tokio::io::sink()).await?;
    let [result, source, reason] = rejection.codes();
    socket.write_all(&[0x03, 0, 0, 0, 0, 4, 0, result, source, reason]).await?;
    socket.shutdown().await
}

/// One association.
struct Conversation {
    association: AsyncServerAssociation<TcpStream>,
    shared: Arc<Shared>,
    calling_ae: String,
}

/// How a request ended, for the record.
struct End {
    results: usize,
    bytes: u64,
    status: Status,
}

impl Conversation {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let idle = self.shared.faults().closes_idle_after.unwrap_or(IDLE);
            let received = tokio::time::timeout(idle, receive_message(&mut self.association)).await;
            let (context_id, command, data) = match received.map_err(|_| cut())?? {
                Message::Dimse { context_id, command, data } => (context_id, command, data),
                Message::Gone => return Ok(()),
                Message::Release => {
                    self.association.send(&dicom_ul::Pdu::ReleaseRP).await.map_err(io::Error::other)?;
                    return self.association.inner_stream().shutdown().await;
                }
            };
            self.shared.state().begun += 1;
            let begin = Instant::now();
            let (what, identifier, end) = match command.field {
                CommandField::CEchoRq => {
                    let status = Status::SUCCESS;
                    self.reply(context_id, &command, CommandField::CEchoRsp, status).await?;
                    ("C-ECHO", None, End { results: 0, bytes: 0, status })
                }
                CommandField::CFindRq => {
                    let identifier = decode(&data)?;
                    let end = self.find(context_id, &command, &identifier).await?;
                    ("C-FIND", Some(identifier), end)
                }
                CommandField::CMoveRq => {
                    let identifier = decode(&data)?;
                    let end = self.move_to(context_id, &command, &identifier).await?;
                    ("C-MOVE", Some(identifier), end)
                }
                // A cancel that came after the last answer.
                CommandField::CCancelRq => continue,
                other => {
                    let response = CommandField::from_code(other.code() | 0x8000);
                    self.reply(context_id, &command, response, Status::UNRECOGNIZED_OPERATION).await?;
                    continue;
                }
            };
            let identifier = identifier.map(|i| summary(&i)).unwrap_or_default();
            let asked = Asked {
                what,
                identifier,
                results: end.results,
                bytes: end.bytes,
                status: end.status,
                took: begin.elapsed(),
            };
            self.shared.state().asked.push(asked);
        }
    }

    async fn reply(
        &mut self,
        id: u8,
        request: &Command,
        field: CommandField,
        status: Status,
    ) -> io::Result<()> {
        let comment = self.shared.faults().comment.filter(|_| status != Status::SUCCESS);
        let reply = request.reply(field, &Reply { status, comment });
        send_message(&mut self.association, id, &reply, &[]).await
    }

    async fn find(&mut self, id: u8, request: &Command, identifier: &InMemDicomObject) -> io::Result<End> {
        let faults = self.shared.faults();
        let instances = Arc::clone(&self.shared.state().instances);
        let found = match faults.find_status {
            Some(status) => Err(status),
            None => query::answers(&instances, identifier, &faults, self.shared.ae_title.as_str()),
        };
        let last = faults.last_status.unwrap_or(Status::SUCCESS);
        let mut end = End { results: 0, bytes: 0, status: found.as_ref().err().copied().unwrap_or(last) };
        let limit = match query::level_of(identifier) {
            Some(query::Level::Series) => faults.crop_series,
            Some(query::Level::Image) => faults.crop_images,
            _ => None,
        };
        let mut found = found.unwrap_or_default();
        let mut rounds = 1;
        if let (Some(padding), Some(answer)) = (faults.answers_without_end, found.first_mut()) {
            answer.put_str(tags::IMAGE_COMMENTS, VR::LT, "x".repeat(padding));
            rounds = usize::MAX;
        }
        for answer in std::iter::repeat_n(&found, rounds).flatten() {
            if limit.is_some_and(|n| end.results >= n) {
                end.status = Status::CANCEL;
                break;
            }
            if faults.drop_after_answers.is_some_and(|n| end.results >= n) {
                return Err(cut());
            }
            if self.is_cancelled(faults.answer_delay).await? {
                end.status = Status::CANCEL;
                break;
            }
            let status = faults.pending_status.unwrap_or(Status::PENDING);
            let mut pending = request.reply(CommandField::CFindRsp, &Reply { status, comment: None });
            pending.has_data_set = true;
            let mut data = Vec::new();
            let ts = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
            answer.write_dataset_with_ts(&mut data, &ts).map_err(io::Error::other)?;
            send_message(&mut self.association, id, &pending, &data).await?;
            end.results += 1;
        }
        self.reply(id, request, CommandField::CFindRsp, end.status).await?;
        Ok(end)
    }

    async fn move_to(&mut self, id: u8, request: &Command, identifier: &InMemDicomObject) -> io::Result<End> {
        let faults = self.shared.faults();
        let destination = request.move_destination.clone().unwrap_or_default();
        let (trusted, all) = {
            let state = self.shared.state();
            (state.trusted.get(&destination).copied(), Arc::clone(&state.instances))
        };
        let refused = match (faults.move_status, trusted) {
            (Some(status), _) => Some(status),
            (None, None) => Some(Status::MOVE_DESTINATION_UNKNOWN),
            (None, Some(_)) if query::level_of(identifier).is_none() => Some(Status::DATA_SET_MISMATCH),
            (None, Some(_)) => None,
        };
        let address = faults.wrong_destination.or(trusted);
        let (None, Some(address)) = (refused, address) else {
            let status = refused.unwrap_or(Status::MOVE_DESTINATION_UNKNOWN);
            self.reply(id, request, CommandField::CMoveRsp, status).await?;
            return Ok(End { results: 0, bytes: 0, status });
        };
        let instances = query::matching(&all, identifier);
        let mut counts = Counts { remaining: instances.len() as u16, ..Counts::default() };
        if instances.is_empty() {
            return self.end_move(id, request, &counts, Status::SUCCESS, 0).await;
        }
        if let Some(patience) = faults.never_calls_back {
            tokio::time::sleep(patience).await;
            counts.fail_rest();
            return self.end_move(id, request, &counts, Status::UNABLE_TO_PERFORM, 0).await;
        }
        let own_ae = self.shared.ae_title.as_str().to_owned();
        let Ok(mut mover) = Mover::open(address, &own_ae, &destination, &instances).await else {
            counts.fail_rest();
            return self.end_move(id, request, &counts, Status::UNABLE_TO_PERFORM, 0).await;
        };
        let mut bytes = 0;
        let mut status = None;
        for (n, instance) in instances.iter().enumerate() {
            if faults.drop_after_sub_operations == Some(n) {
                tokio::time::sleep(faults.sub_operation_delay).await;
                return Err(cut());
            }
            let stalls = faults.stall_after_sub_operations == Some(n);
            if self.is_cancelled(if stalls { IDLE } else { faults.sub_operation_delay }).await? {
                status = Some(Status::CANCEL);
                break;
            }
            let outcome = self.sub_operation(&mut mover, instance, request).await;
            counts.count(outcome.class());
            if outcome == Status::SUCCESS || outcome.class() == crate::dimse::status::Class::Warning {
                bytes += instance_bytes(instance);
            }
            if counts.remaining > 0 {
                let mut pending =
                    request.reply(CommandField::CMoveRsp, &Reply { status: Status::PENDING, comment: None });
                counts.write(&mut pending, true);
                send_message(&mut self.association, id, &pending, &[]).await?;
            }
        }
        mover.close().await;
        let status = status.unwrap_or(if counts.failed + counts.warning == 0 {
            Status::SUCCESS
        } else if counts.completed + counts.warning == 0 {
            Status::UNABLE_TO_PERFORM
        } else {
            Status::SUBOPERATIONS_WARNING
        });
        self.end_move(id, request, &counts, status, bytes).await
    }

    async fn sub_operation(&mut self, mover: &mut Mover, instance: &Instance, request: &Command) -> Status {
        let uid = instance.sop_instance_uid();
        let (fails, lies, warns) = {
            let faults = &mut self.shared.state().faults;
            let fails = faults.fail_instances.contains(&uid) || take_one(&mut faults.fail_next);
            let lies = !fails && take_one(&mut faults.lie_next);
            (fails, lies, !fails && !lies && take_one(&mut faults.warn_next))
        };
        if fails {
            return Status::PROCESSING_FAILURE;
        }
        if lies {
            return Status::SUCCESS;
        }
        let originator = (self.calling_ae.as_str(), request.message_id.unwrap_or(0));
        match mover.store(instance, originator).await {
            Ok(Status::SUCCESS) if warns => Status(0xB000),
            Ok(status) => status,
            Err(_) => Status::PROCESSING_FAILURE,
        }
    }

    async fn end_move(
        &mut self,
        id: u8,
        request: &Command,
        counts: &Counts,
        status: Status,
        bytes: u64,
    ) -> io::Result<End> {
        let comment = self.shared.faults().comment.filter(|_| status != Status::SUCCESS);
        let mut last = request.reply(CommandField::CMoveRsp, &Reply { status, comment });
        counts.write(&mut last, status == Status::CANCEL);
        send_message(&mut self.association, id, &last, &[]).await?;
        Ok(End { results: usize::from(counts.completed) + usize::from(counts.warning), bytes, status })
    }

    /// Lets time pass, and tells whether a C-CANCEL has come by then.
    async fn is_cancelled(&mut self, wait: Duration) -> io::Result<bool> {
        match tokio::time::timeout(wait, receive_message(&mut self.association)).await {
            Err(_) => Ok(false),
            Ok(Ok(Message::Dimse { command, .. })) => {
                let is_cancel = command.field == CommandField::CCancelRq;
                if is_cancel {
                    self.shared.state().asked.push(Asked {
                        what: "C-CANCEL",
                        identifier: String::new(),
                        results: 0,
                        bytes: 0,
                        status: Status::CANCEL,
                        took: Duration::ZERO,
                    });
                }
                Ok(is_cancel)
            }
            Ok(Ok(Message::Release | Message::Gone)) => Err(cut()),
            Ok(Err(error)) => Err(error),
        }
    }
}

/// Sub-operations of a move. Source: PS3.4 §C.4.2.1.6 to 9.
#[derive(Debug, Default)]
struct Counts {
    remaining: u16,
    completed: u16,
    failed: u16,
    warning: u16,
}

impl Counts {
    fn count(&mut self, class: crate::dimse::status::Class) {
        use crate::dimse::status::Class;
        self.remaining = self.remaining.saturating_sub(1);
        match class {
            Class::Success => self.completed += 1,
            Class::Warning => self.warning += 1,
            _ => self.failed += 1,
        }
    }

    fn fail_rest(&mut self) {
        self.failed += self.remaining;
        self.remaining = 0;
    }

    fn write(&self, response: &mut Command, with_remaining: bool) {
        response.sop_instance_uid = None;
        response.remaining = with_remaining.then_some(self.remaining);
        response.completed = Some(self.completed);
        response.failed = Some(self.failed);
        response.warning = Some(self.warning);
    }
}

fn instance_bytes(instance: &Instance) -> u64 {
    instance.phantom.map_or(0, |p| u64::from(p.rows) * u64::from(p.columns) * 2)
}

fn decode(data: &[u8]) -> io::Result<InMemDicomObject> {
    let ts = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
    InMemDicomObject::read_dataset_with_ts(data, &ts).map_err(io::Error::other)
}

/// Level and keys that have a value, UIDs counted instead of listed.
fn summary(identifier: &InMemDicomObject) -> String {
    use dicom_core::dictionary::{DataDictionary, DataDictionaryEntry};
    use dicom_core::header::Header;
    use dicom_dictionary_std::StandardDataDictionary;
    let mut words = vec![query::text(identifier.get(tags::QUERY_RETRIEVE_LEVEL))];
    for key in identifier.iter() {
        let value = query::text(Some(key));
        if key.tag() == tags::QUERY_RETRIEVE_LEVEL
            || key.tag() == tags::SPECIFIC_CHARACTER_SET
            || value.is_empty()
        {
            continue;
        }
        let name = StandardDataDictionary.by_tag(key.tag()).map_or("private", |e| e.alias());
        let is_uid = key.vr() == VR::UI || name.ends_with("InstanceUID");
        words.push(if is_uid {
            format!("{name}=({})", value.split('\\').count())
        } else {
            format!("{name}={value}")
        });
    }
    words.join(" ")
}

fn cut() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}
