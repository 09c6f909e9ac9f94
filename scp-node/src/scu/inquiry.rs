//! How an archive is asked: which queries, in which order, on how many associations.
//!
//! A SERIES-level query with counts comes first, so that only series that changed are asked for in detail. A relational
//! archive (Aria) answers it for the whole patient at once; the others are walked from study to series. Which kind an
//! archive is, is found out by the first query, and told to the caller, who remembers it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::archive::Answer;
use super::query::{self, Scope};
use super::{Archive, Association, FindOutcome, ListedImage, ListedPlan, ListedSeries, explain};
use crate::dimse::status::Class;
use crate::dimse::{Identifier, Status};
use crate::error::{Error, Result};
use crate::names::Uid;
use crate::settings::Strategy;

/// Up to so many series are asked for one by one, also at a relational archive: narrower than asking for all.
const ONE_BY_ONE: usize = 3;

/// One job's conversation with one archive.
#[derive(Debug)]
pub struct Inquiry {
    archive: Archive,
    cancel: CancellationToken,
    strategy: Strategy,
    idle: Vec<Association>,
    queries: usize,
}

impl Inquiry {
    /// Begins without connecting.
    ///
    /// # Arguments
    /// * `strategy` — what is set or remembered; `Auto` finds out
    pub fn new(archive: &Archive, strategy: Strategy, cancel: &CancellationToken) -> Self {
        Self { archive: archive.clone(), cancel: cancel.clone(), strategy, idle: Vec::new(), queries: 0 }
    }

    /// The archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Ends the job when it is cancelled.
    pub fn cancel_token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// What is known by now about how this archive wants to be asked.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// How many C-FINDs were sent.
    pub fn queries(&self) -> usize {
        self.queries
    }

    /// An association that is not in use, or a new one.
    ///
    /// # Errors
    /// As [`Archive::connect`]; [`Error::Cancelled`].
    pub async fn association(&mut self) -> Result<Association> {
        match self.idle.pop() {
            Some(association) => Ok(association),
            None => self.archive.connect_or(&self.cancel).await,
        }
    }

    /// Gives an association back that may be used again.
    pub fn give_back(&mut self, association: Association) {
        self.idle.push(association);
    }

    /// Releases all associations, in order.
    pub async fn close(mut self) {
        self.rest().await;
    }

    /// Releases the associations that are not in use; the next question makes new ones.
    pub async fn rest(&mut self) {
        let mut closing = JoinSet::new();
        for association in self.idle.drain(..) {
            closing.spawn(association.release());
        }
        while closing.join_next().await.is_some() {}
    }

    /// The patient's series, of all modalities.
    ///
    /// # Errors
    /// As [`Archive::connect`]; [`Error::PeerMisbehaved`] when the archive refuses both ways of asking.
    pub async fn series(&mut self, patient_id: &str) -> Result<Vec<ListedSeries>> {
        let mut tells = true;
        if self.strategy != Strategy::Hierarchical {
            let mut association = self.association().await?;
            self.queries += 1;
            let query = query::series(patient_id, Scope::Patient);
            let outcome = find(&mut association, &self.archive, &query, &self.cancel).await?;
            self.give_back(association);
            let (status, is_set) = (outcome.status, self.is_set_to(Strategy::Relational));
            if is_set || status.class() != Class::Failure {
                let answers = outcome.into_answers(&self.archive.peer(), false)?;
                let series: Vec<_> =
                    answers.iter().filter_map(|a| ListedSeries::read(a, patient_id, None)).collect();
                if is_set || !series.is_empty() {
                    self.learn(Strategy::Relational);
                    return Ok(distinct(series, |s| &s.series_uid));
                }
            } else if status == Status::OUT_OF_RESOURCES {
                // Busy: the next query would find it so too.
                return Err(explain::find_failed(
                    &self.archive.peer(),
                    status,
                    outcome.comment.as_deref(),
                    false,
                ));
            }
            // Refused, or nothing: some archives answer a relational query with success and no match.
            tracing::debug!(archive = %self.archive.peer(), %status, "no answers to a relational query");
            tells = tells_hierarchical(status);
        }
        let series = self.series_by_study(patient_id).await?;
        if !series.is_empty() && tells {
            self.learn(Strategy::Hierarchical);
        }
        Ok(series)
    }

    fn is_set_to(&self, strategy: Strategy) -> bool {
        self.archive.settings().strategy == strategy
    }

    /// Keeps what was found out, unless the settings say how this archive is asked.
    fn learn(&mut self, strategy: Strategy) {
        if self.is_set_to(Strategy::Auto) && self.strategy != strategy {
            self.strategy = strategy;
            tracing::info!(archive = %self.archive.peer(), ?strategy, "found out how this archive is asked");
        }
    }

    async fn series_by_study(&mut self, patient_id: &str) -> Result<Vec<ListedSeries>> {
        let answers = self.find_one(query::studies(patient_id)).await?;
        let studies = answers.iter().filter_map(|a| super::listing::study_of(a, patient_id)).collect();
        let studies: Vec<Uid> = distinct(studies, |s| s);
        let queries = studies.iter().map(|s| query::series(patient_id, Scope::Study(s))).collect();
        let found = self.find_all(queries).await?;
        let read = |(study, answers): (&Uid, Vec<Answer>)| -> Vec<ListedSeries> {
            answers.iter().filter_map(|a| ListedSeries::read(a, patient_id, Some(study))).collect()
        };
        Ok(distinct(studies.iter().zip(found).flat_map(read).collect(), |s| &s.series_uid))
    }

    /// The plans in these series.
    ///
    /// # Errors
    /// As [`Inquiry::series`].
    pub async fn plans(&mut self, patient_id: &str, series: &[ListedSeries]) -> Result<Vec<ListedPlan>> {
        if self.asks_for_all(series)
            && let Some(answers) = self.find_relational(query::plans(patient_id, Scope::Patient)).await?
        {
            let plans = answers.iter().filter_map(|a| ListedPlan::read(a, patient_id, None));
            // An archive may ignore the modality: DCMTK answers with everything the patient has.
            return Ok(plans.filter(|p| series.iter().any(|s| s.series_uid == p.series_uid)).collect());
        }
        let queries = series.iter().map(|s| query::plans(patient_id, Scope::Series(s))).collect();
        let found = self.find_all(queries).await?;
        let read = |(series, answers): (&ListedSeries, Vec<Answer>)| -> Vec<ListedPlan> {
            answers.iter().filter_map(|a| ListedPlan::read(a, patient_id, Some(series))).collect()
        };
        Ok(series.iter().zip(found).flat_map(read).collect())
    }

    /// The RT Images in these series.
    ///
    /// # Errors
    /// As [`Inquiry::series`].
    pub async fn images(&mut self, patient_id: &str, series: &[ListedSeries]) -> Result<Vec<ListedImage>> {
        let uncounted = series.iter().all(|s| s.instances.is_none());
        if uncounted
            && self.asks_for_all(series)
            && let Some(answers) = self.find_relational(query::images(patient_id, Scope::Patient)).await?
        {
            let images = answers.iter().filter_map(|a| ListedImage::read(a, patient_id, None));
            return Ok(images.filter(|i| series.iter().any(|s| s.series_uid == i.series_uid)).collect());
        }
        let queries = series.iter().map(|s| query::images(patient_id, Scope::Series(s))).collect();
        let found = self.find_all(queries).await?;
        let read = |(series, answers): (&ListedSeries, Vec<Answer>)| -> Vec<ListedImage> {
            answers.iter().filter_map(|a| ListedImage::read(a, patient_id, Some(series))).collect()
        };
        Ok(series.iter().zip(found).flat_map(read).collect())
    }

    /// The SOP Instance UIDs of what is in each of these series now.
    ///
    /// # Errors
    /// As [`Inquiry::series`].
    pub async fn instances(
        &mut self,
        patient_id: &str,
        series: &[ListedSeries],
    ) -> Result<Vec<HashSet<Uid>>> {
        let found = self.find_all(series.iter().map(query::instances).collect()).await?;
        let read = |(series, answers): (&ListedSeries, Vec<Answer>)| -> HashSet<Uid> {
            let images = answers.iter().filter_map(|a| ListedImage::read(a, patient_id, Some(series)));
            images.filter(|i| i.series_uid == series.series_uid).map(|i| i.sop_instance_uid).collect()
        };
        Ok(series.iter().zip(found).map(read).collect())
    }

    fn asks_for_all(&self, series: &[ListedSeries]) -> bool {
        self.strategy == Strategy::Relational && series.len() > ONE_BY_ONE
    }

    /// An IMAGE-level query over the whole patient, who is known to have what is asked for; `None` when the archive does
    /// not do that after all: DCMTK answers such queries at SERIES level, but refuses them at IMAGE level.
    async fn find_relational(&mut self, query: Identifier) -> Result<Option<Vec<Answer>>> {
        let mut association = self.association().await?;
        self.queries += 1;
        let outcome = find(&mut association, &self.archive, &query, &self.cancel).await?;
        let peer = association.peer().clone();
        self.give_back(association);
        // What tells nothing about the archive's kind, such as that it is busy, is passed on.
        let refused = tells_hierarchical(outcome.status) && outcome.status.class() == Class::Failure;
        if self.is_set_to(Strategy::Relational) || !refused {
            let answers = outcome.into_answers(&peer, false)?;
            if self.is_set_to(Strategy::Relational) || !answers.is_empty() {
                return Ok(Some(answers));
            }
        }
        self.learn(Strategy::Hierarchical);
        Ok(None)
    }

    async fn find_one(&mut self, query: Identifier) -> Result<Vec<Answer>> {
        Ok(self.find_all(vec![query]).await?.pop().unwrap_or_default())
    }

    /// Sends queries on several associations; the answers stand in the order of the queries.
    async fn find_all(&mut self, queries: Vec<Identifier>) -> Result<Vec<Vec<Answer>>> {
        let n = queries.len();
        self.queries += n;
        let (cancel, is_hierarchical) = (self.cancel.clone(), self.strategy == Strategy::Hierarchical);
        let queue: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(queries.into_iter().enumerate().collect()));
        let workers = n.min(self.archive.settings().associations);
        let mut running = JoinSet::new();
        for worker in 0..workers {
            let (idle, archive) = (self.idle.pop(), self.archive.clone());
            running.spawn(work(
                idle,
                archive,
                worker > 0,
                is_hierarchical,
                Arc::clone(&queue),
                cancel.clone(),
            ));
        }
        let mut found = vec![Vec::new(); n];
        let mut open = n;
        // Archives limit associations by rejecting more, or by letting them hang (Orthanc beyond its 4 threads): a helper
        // that still waits for its own when the work is done is left, not waited for.
        while open > 0 {
            let Some(finished) = running.join_next().await else {
                // A helper left a query behind when the others were done already.
                let (archive, queue) = (self.archive.clone(), Arc::clone(&queue));
                let idle = self.idle.pop();
                running.spawn(work(idle, archive, false, is_hierarchical, queue, cancel.clone()));
                continue;
            };
            let (association, answered) = finished.map_err(|e| Error::Misuse {
                what: format!("a query's task ended early: {e}"),
                hint: "this is a bug: please report it".into(),
            })??;
            self.idle.extend(association);
            for (at, answers) in answered {
                open = open.saturating_sub(1);
                if let Some(slot) = found.get_mut(at) {
                    *slot = answers;
                }
            }
        }
        Ok(found)
    }
}

/// Whether this end of a relational query without answers tells that the archive wants to be asked level by level: it does not
/// match the model, cannot be processed, is not supported, or nothing matches though there is something.
fn tells_hierarchical(status: Status) -> bool {
    matches!(status.0, 0x0000 | 0xA900 | 0xC000..=0xC0FF | 0x0122)
}

/// One C-FIND; over a new association when the archive had ended this one while it was idle, as many do after 30 s.
async fn find(
    association: &mut Association,
    archive: &Archive,
    query: &Identifier,
    cancel: &CancellationToken,
) -> Result<FindOutcome> {
    match association.find(query, cancel).await {
        Err(error) if association.ended_idle(&error) => {
            *association = archive.connect_or(cancel).await?;
            association.find(query, cancel).await
        }
        found => found,
    }
}

/// The first of each: pynetdicom's archive answers at SERIES level once for every instance.
fn distinct<T>(items: Vec<T>, uid: impl Fn(&T) -> &Uid) -> Vec<T> {
    let mut seen = HashSet::new();
    items.into_iter().filter(|item| seen.insert(uid(item).clone())).collect()
}

type Answered = Vec<(usize, Vec<Answer>)>;

/// Takes queries from the queue until it is empty. A helper that gets no association of its own, or loses it, leaves the work
/// to the others: archives limit how many they accept.
async fn work(
    idle: Option<Association>,
    archive: Archive,
    is_helper: bool,
    is_hierarchical: bool,
    queue: Arc<Mutex<VecDeque<(usize, Identifier)>>>,
    cancel: CancellationToken,
) -> Result<(Option<Association>, Answered)> {
    let mut association = match idle {
        Some(association) => association,
        None => match archive.connect_or(&cancel).await {
            Ok(association) => association,
            Err(error @ Error::Cancelled) => return Err(error),
            Err(_) if is_helper => return Ok((None, Vec::new())),
            Err(error) => return Err(error),
        },
    };
    let mut answered = Vec::new();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((at, query)) = next else { return Ok((Some(association), answered)) };
        let outcome = match find(&mut association, &archive, &query, &cancel).await {
            Err(Error::Unreachable { .. } | Error::PeerMisbehaved { .. }) if is_helper => {
                queue.lock().unwrap_or_else(PoisonError::into_inner).push_front((at, query));
                return Ok((None, answered));
            }
            outcome => outcome?,
        };
        answered.push((at, outcome.into_answers(association.peer(), is_hierarchical)?));
    }
}

#[cfg(test)]
mod tests {
    use dicom_ul::pdu::{PDataValueType, Pdu, read_pdu};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::dimse::{Command, CommandField, message};
    use crate::names::AeTitle;
    use crate::scu::archive::tests::accept;
    use crate::settings::ArchiveSettings;

    /// Answers every C-FIND with success and no match; returns how many there were.
    async fn answer_all(mut stream: TcpStream) -> usize {
        let (mut received, mut answered) = (Vec::new(), 0);
        loop {
            let mut rest = received.as_slice();
            let read = read_pdu(&mut rest, 1 << 16, true).unwrap();
            if read.is_some() {
                let used = received.len() - rest.len();
                received.drain(..used);
            }
            match read {
                Some(Pdu::PData { data }) => {
                    for _ in data.iter().filter(|v| v.is_last && v.value_type == PDataValueType::Data) {
                        let response =
                            Command { status: Some(Status::SUCCESS), ..Command::new(CommandField::CFindRsp) };
                        stream.write_all(&message::encode(1, &response, &[], 1 << 14)).await.unwrap();
                        answered += 1;
                    }
                }
                Some(_) => return answered,
                None if stream.read_buf(&mut received).await.unwrap_or(0) == 0 => return answered,
                None => {}
            }
        }
    }

    #[tokio::test]
    async fn a_helper_that_loses_its_association_leaves_its_query_to_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let title = AeTitle::new("LIMITED").unwrap();
        let settings =
            ArchiveSettings { associations: 2, ..ArchiveSettings::new("a", title, "127.0.0.1", port) };
        let archive = Archive::new(&settings, &AeTitle::new("SCP_NODE").unwrap());
        let answering = tokio::spawn(async move {
            let first = tokio::spawn(answer_all(accept(&listener).await));
            // The second association is taken, and cut at its first query.
            tokio::spawn(async move {
                let mut second = accept(&listener).await;
                let _ = second.read_u8().await;
            });
            first.await.unwrap()
        });
        let mut inquiry = Inquiry::new(&archive, Strategy::Hierarchical, &CancellationToken::new());
        let association = inquiry.association().await.unwrap();
        inquiry.give_back(association);
        let queries = (0..200).map(|n| query::studies(&format!("P{n}"))).collect();
        let found = inquiry.find_all(queries).await.unwrap();
        assert_eq!(found.len(), 200);
        inquiry.close().await;
        assert_eq!(answering.await.unwrap(), 200);
    }
}
