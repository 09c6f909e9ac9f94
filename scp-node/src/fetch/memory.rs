//! What archives have told, kept in the catalog (its tables: `images/schema.rs`): listings, when they were asked for, and how each
//! archive is asked.
//!
//! It spares questions, never answers: a listing is used again only while it is fresh, or while the archive's count of a
//! series' instances is unchanged. It is not rebuilt by a reindex; forgetting it costs one more question.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, NaiveDateTime, Utc};
use rusqlite::{OptionalExtension, params};

use crate::error::Result;
use crate::images::rows::{TIME_FORMAT, beam_from, beam_text, time};
use crate::images::{Catalog, PlanRecord};
use crate::names::Uid;
use crate::scu::{Archive, ListedImage, ListedPlan, ListedSeries, Peer};
use crate::settings::Strategy;

/// When a patient was asked about, milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub all_ms: i64,
    pub plans_ms: i64,
}

/// Everything that an archive has told about one patient.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Listing {
    pub images: Vec<ListedImage>,
    pub plans: Vec<ListedPlan>,
    /// Plans that the archive does not list though images name them, and whose label the catalog knows.
    pub known: Vec<PlanRecord>,
    /// Series that are listed otherwise than they are counted.
    pub miscounted: HashMap<Uid, Counts>,
    /// Which of these images and plans are in the catalog.
    pub on_disk: HashSet<Uid>,
}

/// What an archive says of the number of objects in a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub counted: u32,
    pub listed: u32,
}

/// A plan whose label is known, from whomever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labelled<'a> {
    pub plan_uid: &'a Uid,
    pub label: &'a str,
    pub dated: Option<NaiveDateTime>,
}

impl Listing {
    /// All plans whose label is known.
    pub(super) fn labels(&self) -> impl Iterator<Item = Labelled<'_>> {
        let listed = self.plans.iter().filter_map(|p| {
            Some(Labelled { plan_uid: &p.plan_uid, label: p.label.as_deref()?, dated: p.dated })
        });
        let known = self.known.iter();
        listed.chain(known.map(|p| Labelled { plan_uid: &p.plan_uid, label: &p.label, dated: p.dated }))
    }

    /// All plans of which more is known than that images name them.
    pub(super) fn plan_uids(&self) -> BTreeSet<&Uid> {
        self.plans.iter().map(|p| &p.plan_uid).chain(self.known.iter().map(|p| &p.plan_uid)).collect()
    }
}

/// What changed since the last listing.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// All series there are now.
    pub series: Vec<ListedSeries>,
    /// The series that were listed anew, images and plans.
    pub relisted: Vec<ListedSeries>,
    pub images: Vec<ListedImage>,
    pub plans: Vec<ListedPlan>,
    pub strategy: Strategy,
    pub asked: Asked,
}

/// One archive's part of the memory.
#[derive(Debug)]
pub(super) struct Memory<'c> {
    pub catalog: &'c mut Catalog,
    archive: String,
}

/// When an archive last answered about any patient; `None`: never, as far as this catalog goes.
///
/// # Errors
/// [`Error::Catalog`](crate::Error::Catalog)
pub fn last_answered(catalog: &Catalog, archive: &Peer) -> Result<Option<DateTime<Utc>>> {
    let sql = "SELECT max(max(asked_ms, plans_asked_ms)) FROM asked WHERE archive = ?1";
    let newest =
        catalog.connection().query_row(sql, [archive.to_string()], |row| row.get::<_, Option<i64>>(0));
    Ok(newest.map_err(|e| catalog.error(e))?.and_then(DateTime::from_timestamp_millis))
}

/// How this archive is asked: as set, else as found out before.
pub(crate) fn strategy(catalog: &mut Catalog, archive: &Archive) -> Result<Strategy> {
    match archive.settings().strategy {
        Strategy::Auto => Memory::new(catalog, &archive.peer()).strategy(),
        set => Ok(set),
    }
}

/// Keeps how this archive is asked.
pub(crate) fn remember_strategy(catalog: &mut Catalog, archive: &Archive, strategy: Strategy) -> Result<()> {
    let memory = Memory::new(catalog, &archive.peer());
    memory.run(|c| write_strategy(c, &memory.archive, strategy))
}

impl<'c> Memory<'c> {
    pub(super) fn new(catalog: &'c mut Catalog, archive: &Peer) -> Self {
        Self { catalog, archive: archive.to_string() }
    }

    fn run<T>(&self, work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(self.catalog.connection()).map_err(|e| self.catalog.error(e))
    }

    /// How this archive is asked, as found out before.
    pub(super) fn strategy(&self) -> Result<Strategy> {
        let text: Option<String> = self.run(|c| {
            c.prepare_cached("SELECT strategy FROM archives WHERE archive = ?1")?
                .query_row([&self.archive], |r| r.get(0))
                .optional()
        })?;
        Ok(match text.as_deref() {
            Some("relational") => Strategy::Relational,
            Some("hierarchical") => Strategy::Hierarchical,
            _ => Strategy::Auto,
        })
    }

    /// When the patient was asked about last.
    pub(super) fn asked(&self, patient_id: &str) -> Result<Asked> {
        self.run(|c| {
            let sql = "SELECT asked_ms, plans_asked_ms FROM asked WHERE archive = ?1 AND patient_id = ?2";
            let row = c.prepare_cached(sql)?.query_row(params![self.archive, patient_id], |r| {
                Ok(Asked { all_ms: r.get(0)?, plans_ms: r.get(1)? })
            });
            Ok(row.optional()?.unwrap_or_default())
        })
    }

    /// The series as they were listed last, by UID.
    pub(super) fn series(&self, patient_id: &str) -> Result<HashMap<Uid, ListedSeries>> {
        let series = self.run(|c| {
            let sql = "SELECT series_uid, study_uid, modality, instances FROM listed_series
                       WHERE archive = ?1 AND patient_id = ?2";
            let mut statement = c.prepare_cached(sql)?;
            let rows = statement.query_map(params![self.archive, patient_id], |r| {
                Ok((uid(r.get(0)?), uid(r.get(1)?), r.get::<_, String>(2)?, r.get::<_, Option<u32>>(3)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let typed = series.into_iter().filter_map(|(series_uid, study_uid, modality, instances)| {
            Some(ListedSeries { study_uid: study_uid?, series_uid: series_uid?, modality, instances })
        });
        Ok(typed.map(|s| (s.series_uid.clone(), s)).collect())
    }

    /// Series that are listed otherwise than they are counted: they grow, or the archive errs.
    pub(super) fn miscounted(&self, patient_id: &str) -> Result<HashMap<Uid, Counts>> {
        let of_series =
            "WHERE archive = s.archive AND patient_id = s.patient_id AND series_uid = s.series_uid";
        let sql = format!(
            "SELECT * FROM (SELECT series_uid, instances, (SELECT count(*) FROM listed_images {of_series})
                                 + (SELECT count(*) FROM listed_plans {of_series}) AS listed
                            FROM listed_series s
                            WHERE archive = ?1 AND patient_id = ?2 AND instances IS NOT NULL)
             WHERE instances != listed"
        );
        let miscounted = self.run(|c| {
            let mut statement = c.prepare_cached(&sql)?;
            let rows = statement.query_map(params![self.archive, patient_id], |r| {
                Ok((uid(r.get(0)?), Counts { counted: r.get(1)?, listed: r.get(2)? }))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        Ok(miscounted.into_iter().filter_map(|(uid, counts)| Some((uid?, counts))).collect())
    }

    /// Everything about the patient; several reads, which are to be of one snapshot. What an object on disk says about
    /// itself stands above the answer about it, since it is what is handed out. Only the plan is the archive's to say: an
    /// image that it has given to another plan since must not count for the old one in silence.
    pub(super) fn listing(&self, patient_id: &str) -> Result<Listing> {
        let key = params![self.archive, patient_id];
        let mut on_disk = HashSet::new();
        let mut images = Vec::new();
        self.run(|c| {
            let sql =
                "SELECT l.sop_instance_uid, l.study_uid, l.series_uid, coalesce(l.plan_uid, s.plan_uid),
                              coalesce(i.acquired, l.acquired), coalesce(i.image_type, l.image_type),
                              coalesce(i.beam, l.beam), i.sop_instance_uid IS NOT NULL
                       FROM listed_images l
                       LEFT JOIN instances i ON i.sop_instance_uid = l.sop_instance_uid
                       LEFT JOIN sessions s ON s.id = i.session_id
                       WHERE l.archive = ?1 AND l.patient_id = ?2";
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query(key)?;
            while let Some(row) = rows.next()? {
                let Some(image) = image(row)? else { continue };
                if row.get(7)? {
                    on_disk.insert(image.sop_instance_uid.clone());
                }
                images.push(image);
            }
            Ok(())
        })?;
        let mut plans = Vec::new();
        self.run(|c| {
            let sql = "SELECT l.plan_uid, l.study_uid, l.series_uid, coalesce(l.label, p.label), coalesce(l.dated, p.dated),
                              EXISTS (SELECT 1 FROM instances i WHERE i.sop_instance_uid = l.plan_uid)
                       FROM listed_plans l LEFT JOIN plans p ON p.plan_uid = l.plan_uid
                       WHERE l.archive = ?1 AND l.patient_id = ?2";
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query(key)?;
            while let Some(row) = rows.next()? {
                let Some(plan) = plan(row)? else { continue };
                if row.get(5)? {
                    on_disk.insert(plan.plan_uid.clone());
                }
                plans.push(plan);
            }
            Ok(())
        })?;
        let mut known = self.catalog.plans(patient_id, None)?;
        let named: HashSet<&Uid> = images.iter().filter_map(|i: &ListedImage| i.plan_uid.as_ref()).collect();
        let listed: HashSet<&Uid> = plans.iter().map(|p: &ListedPlan| &p.plan_uid).collect();
        known.retain(|p| named.contains(&p.plan_uid) && !listed.contains(&p.plan_uid));
        let miscounted = self.miscounted(patient_id)?;
        Ok(Listing { images, plans, known, miscounted, on_disk })
    }

    /// Takes over what the archive has told now, all at once.
    pub(super) fn update(&mut self, patient_id: &str, change: &Change) -> Result<()> {
        let archive = self.archive.clone();
        let path = Catalog::file(self.catalog.root());
        self.catalog.transaction(|catalog| {
            write(catalog.connection(), &archive, patient_id, change)
                .map_err(|source| crate::Error::Catalog { path: path.clone(), source })
        })
    }
}

fn write_strategy(c: &rusqlite::Connection, archive: &str, strategy: Strategy) -> rusqlite::Result<()> {
    let strategy = match strategy {
        Strategy::Auto => "auto",
        Strategy::Relational => "relational",
        Strategy::Hierarchical => "hierarchical",
    };
    c.execute("REPLACE INTO archives VALUES (?1, ?2)", params![archive, strategy]).map(|_| ())
}

fn write(c: &rusqlite::Connection, archive: &str, patient_id: &str, change: &Change) -> rusqlite::Result<()> {
    write_strategy(c, archive, change.strategy)?;
    c.execute(
        "REPLACE INTO asked VALUES (?1, ?2, ?3, ?4)",
        params![archive, patient_id, change.asked.all_ms, change.asked.plans_ms],
    )?;
    let known = {
        let mut statement =
            c.prepare_cached("SELECT series_uid FROM listed_series WHERE archive = ?1 AND patient_id = ?2")?;
        let rows = statement.query_map(params![archive, patient_id], |r| r.get::<_, String>(0))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()?
    };
    let gone =
        known.iter().filter(|uid| !change.series.iter().any(|s| s.series_uid.as_str() == uid.as_str()));
    for series in gone.map(String::as_str).chain(change.relisted.iter().map(|s| s.series_uid.as_str())) {
        for table in ["listed_series", "listed_images", "listed_plans"] {
            let sql =
                format!("DELETE FROM {table} WHERE archive = ?1 AND patient_id = ?2 AND series_uid = ?3");
            c.prepare_cached(&sql)?.execute(params![archive, patient_id, series])?;
        }
    }
    for s in &change.relisted {
        c.prepare_cached("REPLACE INTO listed_series VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            archive,
            patient_id,
            s.series_uid.as_str(),
            s.study_uid.as_str(),
            s.modality,
            s.instances
        ])?;
    }
    for i in &change.images {
        c.prepare_cached("REPLACE INTO listed_images VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
            params![
                archive,
                patient_id,
                i.series_uid.as_str(),
                i.sop_instance_uid.as_str(),
                i.study_uid.as_str(),
                i.plan_uid.as_ref().map(Uid::as_str),
                i.acquired.map(|a| a.format(TIME_FORMAT).to_string()),
                i.image_type,
                i.beam.map(beam_text)
            ],
        )?;
    }
    for p in &change.plans {
        c.prepare_cached("REPLACE INTO listed_plans VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
            params![
                archive,
                patient_id,
                p.series_uid.as_str(),
                p.plan_uid.as_str(),
                p.study_uid.as_str(),
                p.label,
                p.dated.map(|a| a.format(TIME_FORMAT).to_string())
            ],
        )?;
    }
    Ok(())
}

fn image(r: &rusqlite::Row<'_>) -> rusqlite::Result<Option<ListedImage>> {
    let uids = (uid(r.get(0)?), uid(r.get(1)?), uid(r.get(2)?));
    let (Some(sop_instance_uid), Some(study_uid), Some(series_uid)) = uids else { return Ok(None) };
    Ok(Some(ListedImage {
        sop_instance_uid,
        study_uid,
        series_uid,
        plan_uid: r.get::<_, Option<String>>(3)?.and_then(uid),
        acquired: time(r.get(4)?),
        image_type: r.get(5)?,
        beam: r.get::<_, Option<String>>(6)?.and_then(|b| beam_from(&b)),
    }))
}

fn plan(r: &rusqlite::Row<'_>) -> rusqlite::Result<Option<ListedPlan>> {
    let uids = (uid(r.get(0)?), uid(r.get(1)?), uid(r.get(2)?));
    let (Some(plan_uid), Some(study_uid), Some(series_uid)) = uids else { return Ok(None) };
    Ok(Some(ListedPlan { plan_uid, study_uid, series_uid, label: r.get(3)?, dated: time(r.get(4)?) }))
}

fn uid(text: String) -> Option<Uid> {
    Uid::new(&text)
}
