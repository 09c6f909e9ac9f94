//! Which sessions still wait for their command, kept on disk for the next start of the service.
//!
//! A file beside the catalog, one JSON object a line, replaced whole: sessions are named by what their images say, since
//! row ids change with a reindex. It is not synced: a power cut may cost a preparation, never a result.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::images::{Catalog, Session, SessionFilter, layout};

/// The sessions that wait, run, or are about to, by row id.
#[derive(Debug)]
pub(super) struct Noted {
    file: PathBuf,
    sessions: BTreeMap<i64, Name>,
}

/// What tells a session from all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Name {
    patient_id: String,
    plan_uid: Option<String>,
    series_uid: String,
    date: Option<NaiveDate>,
}

impl From<&Session> for Name {
    fn from(session: &Session) -> Self {
        Self {
            patient_id: session.patient_id.clone(),
            plan_uid: session.plan_uid.clone(),
            series_uid: session.series_uid.clone(),
            date: session.date,
        }
    }
}

impl Noted {
    /// What the last run of the service left, as far as the catalog still has it.
    pub(super) fn read(catalog: &Catalog) -> Self {
        let file = file(catalog.root());
        let mut noted = Self { file, sessions: BTreeMap::new() };
        match noted.left(catalog) {
            Ok(sessions) => noted.sessions = sessions,
            Err(error) => {
                tracing::warn!(%error, "hooks: it is not known which sessions still wait; none is run again")
            }
        }
        noted
    }

    fn left(&self, catalog: &Catalog) -> Result<BTreeMap<i64, Name>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            text => text.map_err(Error::io(&self.file))?,
        };
        let mut sessions = BTreeMap::new();
        // A line that cannot be read is a session that is not prepared: no reason to give up the others.
        for name in text.lines().filter_map(|line| serde_json::from_str::<Name>(line).ok()) {
            let filter = SessionFilter {
                patient_id: Some(name.patient_id.clone()),
                series_uid: Some(name.series_uid.clone()),
                ..SessionFilter::default()
            };
            let found = catalog.sessions(&filter)?.into_iter().find(|session| Name::from(session) == name);
            sessions.extend(found.map(|session| (session.id, name)));
        }
        Ok(sessions)
    }

    /// The sessions' row ids.
    pub(super) fn ids(&self) -> Vec<i64> {
        self.sessions.keys().copied().collect()
    }

    /// Notes a session unless it is.
    pub(super) fn add(&mut self, id: i64, catalog: &Catalog) {
        if self.sessions.contains_key(&id) {
            return;
        }
        // One that cannot be looked up now is looked up again, and told of, when it is quiet.
        if let Ok(Some(session)) = catalog.session_by_id(id) {
            self.sessions.insert(id, Name::from(&session));
            self.save();
        }
    }

    /// Forgets a session: its command has ended, or there is none to run.
    pub(super) fn remove(&mut self, id: i64) {
        if self.sessions.remove(&id).is_some() {
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "hooks: sessions that wait cannot be noted; a restart now would forget them");
        }
    }

    fn write(&self) -> Result<()> {
        let mut text = String::new();
        for name in self.sessions.values() {
            text += &serde_json::to_string(name).map_err(|error| Error::io(&self.file)(error.into()))?;
            text.push('\n');
        }
        let part = self.file.with_extension("part");
        std::fs::write(&part, text).map_err(Error::io(&part))?;
        std::fs::rename(&part, &self.file).map_err(Error::io(&self.file))
    }
}

fn file(root: &Path) -> PathBuf {
    root.join(layout::CATALOG).join("hooks.jsonl")
}
