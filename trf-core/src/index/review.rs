//! What a person must decide: records that could be more than one treatment.

use super::Index;
use super::entry::{Entry, State};
use super::filing::{Filed, Filing};
use super::find::Query;
use crate::{Error, Result};

impl Index {
    /// Records in review with their candidates, newest first.
    ///
    /// # Errors
    /// [`Error::Index`]
    pub fn reviews(&self) -> Result<Vec<Entry>> {
        self.find(&Query { state: Some(State::Review), ..Query::default() })
    }

    /// Settles a record in review, and moves its file.
    ///
    /// # Arguments
    /// * `name` — the beginning of its SHA-256
    /// * `candidate` — which one it is, counted from 1; `None`: none of them
    /// * `by` — who says so
    /// # Returns
    /// The entry as it is now.
    /// # Errors
    /// [`Error::Misuse`] when it is not in review or has no such candidate; [`Error::Io`], [`Error::Index`].
    pub fn decide(&mut self, name: &str, candidate: Option<usize>, by: &str) -> Result<Entry> {
        let mut entry = self.record(name)?;
        if entry.state != State::Review {
            return Err(Error::misuse(format!("record {} is not in review", entry.short()))
                .with_hint("`scp-node trf review` lists those that are"));
        }
        let source = entry.file(self.root());
        let n = entry.candidates.len();
        let candidates = std::mem::take(&mut entry.candidates);
        match candidate {
            Some(number) => {
                let chosen = number.checked_sub(1).and_then(|at| candidates.into_iter().nth(at));
                let chosen = chosen.ok_or_else(|| {
                    Error::misuse(format!("record {} has candidates 1 to {n}", entry.short()))
                        .with_hint("`scp-node trf review` shows them with their numbers")
                })?;
                entry.treatments = chosen.treatments;
                entry.state = State::Indexed;
                entry.reason = Some(format!("decided: candidate {number} of {n}"));
            }
            None => {
                entry.state = State::NoMosaiqRecordFound;
                entry.reason = Some(format!("decided: none of {n} candidates"));
            }
        }
        entry.next_try = None;
        entry.decided_by = Some(by.to_owned());
        let sha256 = entry.sha256.clone();
        match self.file(&[Filing { source, entry, items: Vec::new() }])?.pop() {
            Some(Ok(Filed::Moved { .. } | Filed::Restored { .. })) => {}
            Some(Ok(Filed::Known { .. })) => {
                return Err(Error::misuse("another process decided this record meanwhile")
                    .with_hint("`scp-node trf find` shows where it is now"));
            }
            Some(Err(error)) => return Err(error),
            None => return Err(Error::misuse("nothing was decided")),
        }
        self.record(&sha256)
    }
}
