//! One archive, and the three services that it is asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::association::Proposal;
use super::{Association, Peer, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, VERIFICATION, explain, listing};
use crate::dimse::status::Class;
use crate::dimse::{Command, CommandField, Identifier, Status};
use crate::error::{Error, Result};
use crate::images::walk::{Path, Syntax, Walker};
use crate::names::AeTitle;
use crate::settings::ArchiveSettings;

/// How long a cancelled operation may take to say so. Justification: an archive checks for C-CANCEL between two answers.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// Most answers of one query. Justification: a patient with 100 000 images in one archive is no QA patient; stops an
/// archive that answers for ever. Each costs about 1 KB here, however short it is.
const ANSWERS_MAX: usize = 200_000;
/// Most bytes of all answers of one query. Justification: an answer about an image has some 600 bytes, so that this is
/// the length of more answers than are taken; stops an archive that fills its answers.
const ANSWERS_BYTES_MAX: usize = 128 << 20;

/// An archive as the settings name it, asked under our AE title.
#[derive(Debug, Clone)]
pub struct Archive {
    settings: ArchiveSettings,
    calling: AeTitle,
}

/// What C-ECHO, and the negotiation before it, told.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Echo {
    /// Seconds to connect and associate.
    pub associate_s: f64,
    /// Seconds from C-ECHO-RQ to C-ECHO-RSP.
    pub echo_s: f64,
    /// Whether C-FIND on Study Root is offered to us.
    pub find: bool,
    /// Whether C-MOVE on Study Root is offered to us.
    #[serde(rename = "move")]
    pub move_: bool,
    /// Implementation version name or class UID, when the archive says it.
    pub implementation: Option<String>,
}

/// The elements of one answer, as [`crate::images::head::Head::new`] reads them.
pub type Answer = BTreeMap<Path, Vec<u8>>;

/// How a C-FIND ended, and what it gave.
#[derive(Debug, Clone)]
pub struct FindOutcome {
    /// Final status.
    pub status: Status,
    /// Error comment of the final response.
    pub comment: Option<String>,
    /// The answers, in the archive's order.
    pub answers: Vec<Answer>,
}

/// How a C-MOVE ended. PS3.4 §C.4.2.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveOutcome {
    /// Final status.
    pub status: Status,
    /// Error comment of the final response.
    pub comment: Option<String>,
    /// Sub-operations that succeeded.
    pub completed: Option<u16>,
    /// Sub-operations that failed.
    pub failed: Option<u16>,
    /// Sub-operations that ended with a warning.
    pub warning: Option<u16>,
}

impl Default for MoveOutcome {
    fn default() -> Self {
        Self { status: Status::SUCCESS, comment: None, completed: None, failed: None, warning: None }
    }
}

impl MoveOutcome {
    /// Whether the archive says that all went well: status success and no sub-operation with failure or warning.
    pub fn is_clean(&self) -> bool {
        self.status == Status::SUCCESS && self.failed.unwrap_or(0) == 0 && self.warning.unwrap_or(0) == 0
    }
}

/// Sub-operations of a running C-MOVE; `None` where the archive does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Still to come.
    pub remaining: Option<u16>,
    /// Done, failed ones included.
    pub done: u16,
}

impl FindOutcome {
    /// The answers, or the archive's refusal as an error.
    ///
    /// # Errors
    /// [`Error::PeerMisbehaved`] with a sentence for the status.
    ///
    /// # Arguments
    /// * `is_hierarchical` — whether the archive is asked level by level already
    pub fn into_answers(self, peer: &Peer, is_hierarchical: bool) -> Result<Vec<Answer>> {
        match self.status.class() {
            Class::Success | Class::Warning => Ok(self.answers),
            _ => Err(explain::find_failed(peer, self.status, self.comment.as_deref(), is_hierarchical)),
        }
    }
}

impl Archive {
    /// An archive, and the AE title under which we ask it.
    pub fn new(settings: &ArchiveSettings, calling: &AeTitle) -> Self {
        Self { settings: settings.clone(), calling: calling.clone() }
    }

    /// Its settings.
    pub fn settings(&self) -> &ArchiveSettings {
        &self.settings
    }

    /// Our AE title.
    pub fn calling(&self) -> &AeTitle {
        &self.calling
    }

    /// Its name in errors and logs.
    pub fn peer(&self) -> Peer {
        let s = &self.settings;
        Peer { ae_title: s.ae_title.clone(), address: format!("{}:{}", s.host, s.port) }
    }

    async fn associate(&self, abstract_syntaxes: &[&str]) -> Result<Association> {
        let s = &self.settings;
        Association::establish(&Proposal {
            peer: self.peer(),
            host: &s.host,
            port: s.port,
            calling: &self.calling,
            abstract_syntaxes,
            connect_timeout: seconds("connect_timeout_s", s.connect_timeout_s)?,
            response_timeout: seconds("response_timeout_s", s.response_timeout_s)?,
        })
        .await
    }

    /// An association for finding and moving.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Timeout`], or [`Error::PeerMisbehaved`] with the reason of a rejection.
    pub async fn connect(&self) -> Result<Association> {
        self.associate(&[STUDY_ROOT_FIND, STUDY_ROOT_MOVE]).await
    }

    /// [`Archive::connect`], unless the job is cancelled before.
    pub(crate) async fn connect_or(&self, cancel: &CancellationToken) -> Result<Association> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Error::Cancelled),
            connected = self.connect() => connected,
        }
    }

    /// Says hello, and learns what the archive offers to us.
    ///
    /// # Errors
    /// As [`Archive::connect`].
    pub async fn echo(&self) -> Result<Echo> {
        let start = Instant::now();
        let mut association = self.associate(&[VERIFICATION, STUDY_ROOT_FIND, STUDY_ROOT_MOVE]).await?;
        let associate_s = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let id = association.next_message_id();
        association.send(&Command::request(CommandField::CEchoRq, id, VERIFICATION), None).await?;
        let (response, _) = association.receive("C-ECHO", || false).await?;
        let status = response.status.unwrap_or(Status::PROCESSING_FAILURE);
        if status != Status::SUCCESS {
            return Err(explain::echo_failed(association.peer(), status));
        }
        let (class, name) = association.implementation.clone();
        let echo = Echo {
            associate_s,
            echo_s: start.elapsed().as_secs_f64(),
            find: association.offers(STUDY_ROOT_FIND),
            move_: association.offers(STUDY_ROOT_MOVE),
            implementation: name.or(class),
        };
        association.release().await;
        Ok(echo)
    }
}

/// The settings check it; whoever makes settings by himself may not.
fn seconds(key: &str, value: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(value).map_err(|e| Error::Misuse {
        what: format!("{key} of an archive is {value}: {e}"),
        hint: "give seconds".into(),
    })
}

impl Association {
    /// One C-FIND, to its end.
    ///
    /// # Errors
    /// When the association breaks, or [`Error::Cancelled`] after a C-CANCEL; a failure status is no error here, since a
    /// refusal tells which strategy the archive wants.
    pub async fn find(&mut self, query: &Identifier, cancel: &CancellationToken) -> Result<FindOutcome> {
        let id = self.next_message_id();
        let request =
            Command { has_data_set: true, ..Command::request(CommandField::CFindRq, id, STUDY_ROOT_FIND) };
        self.send(&request, Some(query)).await?;
        let mut answers = Vec::new();
        let mut bytes = 0;
        loop {
            let (response, data) =
                self.response(CommandField::CFindRsp, id, STUDY_ROOT_FIND, cancel, || false).await?;
            let status = response.status.unwrap_or(Status::PROCESSING_FAILURE);
            if status.class() != Class::Pending {
                return Ok(FindOutcome { status, comment: response.error_comment, answers });
            }
            if answers.len() >= ANSWERS_MAX {
                return Err(Error::Limit {
                    what: "the number of an archive's answers",
                    limit: ANSWERS_MAX as u64,
                    found: answers.len() as u64 + 1,
                });
            }
            bytes += data.len();
            if bytes > ANSWERS_BYTES_MAX {
                return Err(Error::Limit {
                    what: "the bytes of an archive's answers",
                    limit: ANSWERS_BYTES_MAX as u64,
                    found: bytes as u64,
                });
            }
            let mut walker = Walker::new(Syntax::from_uid("1.2.840.10008.1.2"), listing::wanted);
            let read = walker.push(&data).and_then(|()| walker.finish());
            answers.push(read.map_err(|e| explain::damaged(self.peer(), &e))?);
        }
    }

    /// One C-MOVE, to its end.
    ///
    /// # Arguments
    /// * `destination` — the AE title that the archive shall send to
    /// * `is_alive` — asked when no sub-operation was counted for the response time: whether to wait on
    /// * `pending` — called for each pending response
    /// # Errors
    /// As [`Association::find`].
    pub async fn move_to(
        &mut self,
        destination: &AeTitle,
        query: &Identifier,
        cancel: &CancellationToken,
        mut is_alive: impl FnMut() -> bool,
        mut pending: impl FnMut(Pending),
    ) -> Result<MoveOutcome> {
        let id = self.next_message_id();
        let request = Command {
            has_data_set: true,
            move_destination: Some(destination.as_str().to_owned()),
            ..Command::request(CommandField::CMoveRq, id, STUDY_ROOT_MOVE)
        };
        self.send(&request, Some(query)).await?;
        let limit = self.response_timeout();
        let mut progress = (None, Instant::now());
        loop {
            let (response, _) =
                self.response(CommandField::CMoveRsp, id, STUDY_ROOT_MOVE, cancel, &mut is_alive).await?;
            let status = response.status.unwrap_or(Status::PROCESSING_FAILURE);
            let done = [response.completed, response.failed, response.warning].into_iter().flatten();
            if status.class() == Class::Pending {
                let now = Pending { remaining: response.remaining, done: done.fold(0, u16::saturating_add) };
                // Responses alone are no progress: an archive may send them for ever.
                if progress.0 != Some(now) || progress.1.elapsed() >= limit && is_alive() {
                    progress = (Some(now), Instant::now());
                } else if progress.1.elapsed() >= limit {
                    return Err(explain::response_timeout(self.peer(), "C-MOVE", limit.as_secs_f64()));
                }
                pending(now);
                continue;
            }
            return Ok(MoveOutcome {
                status,
                comment: response.error_comment,
                completed: response.completed,
                failed: response.failed,
                warning: response.warning,
            });
        }
    }

    /// The next response to this request; when cancelled, sends C-CANCEL and waits for the archive to stop.
    async fn response(
        &mut self,
        field: CommandField,
        id: u16,
        class: &str,
        cancel: &CancellationToken,
        is_alive: impl FnMut() -> bool,
    ) -> Result<(Command, Vec<u8>)> {
        let what = if field == CommandField::CFindRsp { "C-FIND" } else { "C-MOVE" };
        let received = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            received = self.receive(what, is_alive) => Some(received?),
        };
        let Some((response, data)) = received else {
            self.stop(field, id, class).await;
            return Err(Error::Cancelled);
        };
        if response.field != field || response.responded_to.is_some_and(|r| r != id) {
            return Err(explain::unexpected(self.peer(), &format!("it answers {what} with another message")));
        }
        Ok((response, data))
    }

    /// C-CANCEL-RQ, PS3.7 §9.3.2.3; then what is still under way is read, for a moment, and dropped.
    async fn stop(&mut self, field: CommandField, id: u16, class: &str) {
        let cancel = Command {
            responded_to: Some(id),
            sop_class_uid: Some(class.to_owned()),
            ..Command::new(CommandField::CCancelRq)
        };
        if self.send(&cancel, None).await.is_err() {
            return;
        }
        let drain = async {
            while let Ok((response, _)) = self.receive("C-CANCEL", || false).await {
                let pending = response.status.is_some_and(|s| s.class() == Class::Pending);
                if response.field == field && !pending {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(CANCEL_GRACE, drain).await;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use dicom_ul::pdu::{
        AssociationAC, Pdu, PresentationContextResult, PresentationContextResultReason, UserVariableItem,
        read_pdu, write_pdu,
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::dimse::message;
    use crate::names::Uid;
    use crate::scu::query;

    /// The archive's side of a new association, all that it is asked for accepted.
    pub(in crate::scu) async fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        let request = loop {
            stream.read_buf(&mut received).await.unwrap();
            if let Some(Pdu::AssociationRQ(request)) =
                read_pdu(&mut received.as_slice(), 1 << 16, true).unwrap()
            {
                break request;
            }
        };
        let contexts = request.presentation_contexts.iter().map(|c| PresentationContextResult {
            id: c.id,
            reason: PresentationContextResultReason::Acceptance,
            transfer_syntax: "1.2.840.10008.1.2".into(),
        });
        let reply = AssociationAC {
            protocol_version: 1,
            calling_ae_title: request.calling_ae_title.clone(),
            called_ae_title: request.called_ae_title.clone(),
            application_context_name: request.application_context_name.clone(),
            presentation_contexts: contexts.collect(),
            user_variables: vec![UserVariableItem::MaxLength(1 << 14)],
        };
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &Pdu::AssociationAC(reply)).unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_move_that_is_pending_for_ever_ends_though_responses_come() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let us = AeTitle::new("SCP_NODE").unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = ArchiveSettings {
            response_timeout_s: 3.0,
            ..ArchiveSettings::new("slow", AeTitle::new("SLOW").unwrap(), "127.0.0.1", port)
        };
        let answering = tokio::spawn(async move {
            let mut stream = accept(&listener).await;
            let mut sent = 0;
            // One object in the first half second, and none afterwards.
            loop {
                let response = Command {
                    status: Some(Status::PENDING),
                    responded_to: Some(1),
                    remaining: Some(3),
                    completed: Some(u16::from(sent > 10)),
                    ..Command::new(CommandField::CMoveRsp)
                };
                if stream.write_all(&message::encode(3, &response, &[], 1 << 14)).await.is_err() {
                    return sent;
                }
                sent += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut association = Archive::new(&settings, &us).connect().await.unwrap();
        let series = Uid::new("1.2").unwrap();
        let (cancel, mut seen) = (CancellationToken::new(), 0);
        let query = query::move_series(&series, &series);
        let moved = association.move_to(&us, &query, &cancel, || false, |_| seen += 1).await;
        assert!(matches!(moved, Err(Error::Timeout { .. })), "{moved:?}");
        assert!(seen > 11, "{seen}: a count that changes is progress");
        drop(association);
        answering.await.unwrap();
    }
}
