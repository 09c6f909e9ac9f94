//! Labels of plans: what archives and received plans tell is remembered, and sessions that waited for a label move to where they
//! belong.
//!
//! All but [`Catalog::remember_plan`] runs inside [`Catalog::moving`]. A session that cannot be moved now stays where its row says.
//! A session without a label whose plan is known is one that was to be moved: whoever finds it does what is left of that.

use std::path::Path;

use rusqlite::params;

use super::catalog::Catalog;
use super::filing::{Received, beside, is_taken};
use super::layout::{self, SessionKey};
use super::moves::Moves;
use super::notes;
use super::rows::{PlanRecord, TIME_FORMAT, time};
use crate::error::{Error, Result};
use crate::names::Uid;

/// An RT Plan tells the label that images of it may wait for.
pub(super) fn learn_from_plan(catalog: &Catalog, received: &Received, moves: &mut Moves) -> Result<()> {
    let head = &received.head;
    let Some(label) = head.plan_label.as_ref().filter(|_| head.is_plan()) else { return Ok(()) };
    let plan = PlanRecord {
        plan_uid: received.sop_instance_uid.clone(),
        patient_id: head.patient_id.clone(),
        label: label.clone(),
        dated: head.plan_date,
    };
    learn(catalog, &plan, moves)?;
    resolve_waiting(catalog, &plan.plan_uid, moves)
}

/// Remembers a plan's label.
fn learn(catalog: &Catalog, plan: &PlanRecord, moves: &mut Moves) -> Result<()> {
    if catalog.plan(&plan.plan_uid)?.as_ref() != Some(plan) {
        notes::add(catalog.root(), plan, moves)?;
        enter_plan(catalog, plan)?;
    }
    Ok(())
}

/// Moves the sessions that wait for a label which is known by now.
pub(super) fn resolve_all(catalog: &Catalog, moves: &mut Moves) -> Result<()> {
    let known = || -> rusqlite::Result<Vec<String>> {
        let mut statement = catalog.connection().prepare(
            "SELECT DISTINCT s.plan_uid FROM sessions s JOIN plans p ON p.plan_uid = s.plan_uid
             WHERE s.plan_label IS NULL AND s.kind = 'images'",
        )?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let known = known().map_err(|e| catalog.error(e))?;
    known.iter().filter_map(|uid| Uid::new(uid)).try_for_each(|uid| resolve_waiting(catalog, &uid, moves))
}

/// The sessions that wait for the label of this plan: row id and directory.
fn waiting(catalog: &Catalog, plan_uid: &Uid) -> Result<Vec<(i64, String)>> {
    let find = || -> rusqlite::Result<Vec<(i64, String)>> {
        let mut statement = catalog.connection().prepare_cached(
            "SELECT id, directory FROM sessions WHERE plan_uid = ?1 AND plan_label IS NULL AND kind = 'images'",
        )?;
        let rows = statement.query_map([plan_uid.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    };
    find().map_err(|e| catalog.error(e))
}

/// Moves the sessions that wait for the label of this plan, if it is known.
pub(super) fn resolve_waiting(catalog: &Catalog, plan_uid: &Uid, moves: &mut Moves) -> Result<()> {
    let waiting = waiting(catalog, plan_uid)?;
    let Some(plan) = catalog.plan(plan_uid)?.filter(|_| !waiting.is_empty()) else { return Ok(()) };
    for (id, directory) in waiting {
        match catalog.part(moves, false, |moves| resolve(catalog, &plan, id, &directory, moves)) {
            // Windows renames no directory with an open file in it. The images are where the row says; the next image of the
            // session, the next start, or whoever tells the label again, tries again.
            Err(Error::Io { source, .. }) => {
                tracing::warn!(%plan_uid, error = %source, "a session whose plan's label is known now cannot be renamed yet");
            }
            resolved => resolved?,
        }
    }
    Ok(())
}

/// Whether the directory of a session that waits for its label is not where its row says.
pub(super) fn waits_elsewhere(catalog: &Catalog) -> Result<bool> {
    let directories = || -> rusqlite::Result<Vec<String>> {
        let mut statement = catalog.connection().prepare(
            "SELECT s.directory FROM sessions s LEFT JOIN plans p ON p.plan_uid = s.plan_uid
             WHERE s.plan_label IS NULL AND s.plan_uid <> '' AND s.kind = 'images' AND p.plan_uid IS NULL",
        )?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    let directories = directories().map_err(|e| catalog.error(e))?;
    let is_gone = |directory: &String| !catalog.root().join(layout::native(directory)).exists();
    Ok(directories.iter().any(is_gone))
}

pub(super) fn enter_plan(catalog: &Catalog, plan: &PlanRecord) -> Result<()> {
    catalog
        .connection()
        .prepare_cached("REPLACE INTO plans VALUES (?1, ?2, ?3, ?4)")
        .and_then(|mut s| {
            s.execute(params![
                plan.plan_uid.as_str(),
                plan.patient_id,
                plan.label,
                plan.dated.map(|d| d.format(TIME_FORMAT).to_string())
            ])
        })
        .map(|_| ())
        .map_err(|e| catalog.error(e))
}

/// Renames a session's directory once its plan's label is known.
fn resolve(catalog: &Catalog, plan: &PlanRecord, id: i64, directory: &str, moves: &mut Moves) -> Result<()> {
    let key = catalog
        .connection()
        .query_row("SELECT patient_id, series_uid, date, acquired FROM sessions WHERE id = ?1", [id], |row| {
            let (date, acquired): (String, Option<String>) = (row.get(2)?, row.get(3)?);
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, date, acquired))
        })
        .map_err(|e| catalog.error(e))?;
    let (patient_id, series_uid, date, acquired) = key;
    let mut new = SessionKey {
        patient_id: &patient_id,
        plan_uid: Some(&plan.plan_uid),
        plan_label: Some(&plan.label),
        series_uid: &series_uid,
        date: date.parse().ok(),
        time: time(acquired).map(|t| t.time()),
    }
    .directory();
    let (from, root) = (catalog.root().join(layout::native(directory)), catalog.root());
    let other = beside(&new, plan.plan_uid.as_str());
    // When it is gone, it was renamed just before a crash that the catalog did not live to see, or somebody removed it.
    let is_there = from.try_exists().map_err(Error::io(&from))?;
    let is_in_the_way = match is_there {
        true => root.join(&new).exists() && Path::new(directory) != new,
        false => root.join(&other).exists(),
    };
    if is_in_the_way || is_taken(catalog, &new, Some(id))? {
        new = other;
    }
    let to = root.join(&new);
    if from != to && is_there {
        moves.rename_directory(&from, &to)?;
    }
    catalog
        .connection()
        .execute(
            "UPDATE sessions SET directory = ?2, plan_label = ?3 WHERE id = ?1",
            params![id, layout::slashed(&new), plan.label],
        )
        .map(|_| ())
        .map_err(|e| catalog.error(e))
}

impl Catalog {
    /// Whether sessions still wait for the label of this plan, be it that they could not be renamed when it became known.
    ///
    /// # Errors
    /// [`Error::Catalog`]
    pub fn has_waiting(&self, plan_uid: &Uid) -> Result<bool> {
        Ok(!waiting(self, plan_uid)?.is_empty())
    }

    /// Remembers a plan that an archive told us, and files the sessions that waited for its label.
    ///
    /// May be called by any process that can write to the root, while the service runs.
    ///
    /// # Errors
    /// [`Error::Catalog`], [`Error::Io`]
    pub fn remember_plan(&mut self, plan: &PlanRecord) -> Result<()> {
        // Not synced: what a power cut takes of it the archive tells again.
        self.moving(|catalog, moves| learn(catalog, plan, moves))?;
        // What comes from now on is filed under the label at once.
        if waiting(self, &plan.plan_uid)?.is_empty() {
            return Ok(());
        }
        // No receiver need run, so nothing else says that directories may lie elsewhere than their rows: that the plan is
        // known survives a power cut before the first of them is renamed.
        self.durably(|catalog| catalog.transaction(|catalog| enter_plan(catalog, plan)))?;
        self.moving(|catalog, moves| {
            resolve_waiting(catalog, &plan.plan_uid, moves)?;
            moves.sync()
        })
    }
}
