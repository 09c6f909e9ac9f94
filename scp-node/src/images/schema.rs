//! The catalog's tables, of all rooms, and how an older catalog gets them.

use rusqlite::{Connection, TransactionBehavior};

/// Numbered migrations; one is added at the end, none is ever changed. `user_version` counts the ones applied.
pub(super) const MIGRATIONS: &[&str] = &[
    // What is on disk.
    "
CREATE TABLE plans (
    plan_uid   TEXT PRIMARY KEY,
    patient_id TEXT NOT NULL,
    label      TEXT NOT NULL,
    dated      TEXT
) WITHOUT ROWID;
CREATE INDEX plans_by_label ON plans (patient_id, label);
CREATE TABLE sessions (
    id         INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    plan_uid   TEXT NOT NULL DEFAULT '',
    plan_label TEXT,
    series_uid TEXT NOT NULL,
    date       TEXT NOT NULL DEFAULT '',
    acquired   TEXT,
    directory  TEXT NOT NULL
);
CREATE UNIQUE INDEX sessions_by_key ON sessions (patient_id, plan_uid, series_uid, date, kind);
CREATE INDEX sessions_by_label ON sessions (patient_id, plan_label, acquired);
CREATE INDEX sessions_by_plan ON sessions (plan_uid, acquired);
CREATE INDEX sessions_by_time ON sessions (acquired);
CREATE INDEX sessions_by_directory ON sessions (directory);
CREATE TABLE instances (
    sop_instance_uid    TEXT PRIMARY KEY,
    session_id          INTEGER NOT NULL REFERENCES sessions (id),
    file_name           TEXT NOT NULL,
    bytes               INTEGER NOT NULL,
    sop_class_uid       TEXT NOT NULL,
    transfer_syntax_uid TEXT NOT NULL,
    study_uid           TEXT,
    instance_number     INTEGER,
    modality            TEXT,
    image_type          TEXT,
    acquired            TEXT,
    beam                TEXT,
    gantry_iec_deg      REAL,
    collimator_iec_deg  REAL,
    couch_iec_deg       REAL,
    sid_mm              REAL,
    row_spacing_mm      REAL,
    column_spacing_mm   REAL,
    rows                INTEGER,
    columns             INTEGER,
    machine             TEXT
) WITHOUT ROWID;
CREATE INDEX instances_by_session ON instances (session_id);
CREATE TABLE kept (
    path             TEXT PRIMARY KEY,
    sop_instance_uid TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
",
    // What archives told (`fetch/memory.rs`).
    "
CREATE TABLE archives (
    archive  TEXT PRIMARY KEY,
    strategy TEXT NOT NULL,
    tells    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE asked (
    archive         TEXT NOT NULL,
    patient_id      TEXT NOT NULL,
    asked_ms        INTEGER NOT NULL,
    plans_asked_ms  INTEGER NOT NULL,
    PRIMARY KEY (archive, patient_id)
) WITHOUT ROWID;
CREATE TABLE listed_series (
    archive    TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    series_uid TEXT NOT NULL,
    study_uid  TEXT NOT NULL,
    modality   TEXT NOT NULL,
    instances  INTEGER,
    PRIMARY KEY (archive, patient_id, series_uid)
) WITHOUT ROWID;
CREATE TABLE listed_images (
    archive          TEXT NOT NULL,
    patient_id       TEXT NOT NULL,
    series_uid       TEXT NOT NULL,
    sop_instance_uid TEXT NOT NULL,
    study_uid        TEXT NOT NULL,
    plan_uid         TEXT,
    acquired         TEXT,
    image_type       TEXT,
    beam             TEXT,
    PRIMARY KEY (archive, patient_id, series_uid, sop_instance_uid)
) WITHOUT ROWID;
CREATE TABLE listed_plans (
    archive    TEXT NOT NULL,
    patient_id TEXT NOT NULL,
    series_uid TEXT NOT NULL,
    plan_uid   TEXT NOT NULL,
    study_uid  TEXT NOT NULL,
    label      TEXT,
    dated      TEXT,
    PRIMARY KEY (archive, patient_id, series_uid, plan_uid)
) WITHOUT ROWID;
",
    // Kept objects count for the quota. That an archive tells something of one image says nothing about another one.
    "ALTER TABLE kept ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0; ALTER TABLE archives DROP COLUMN tells;",
];

/// Brings the tables up to this program's; a catalog of a newer one is refused and left as it is.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // The usual case writes nothing: a first write would cost the last one out a checkpoint with its syncs.
    if is_current(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied = version(&transaction)?;
    if applied > MIGRATIONS.len() as i64 {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_SCHEMA),
            Some(format!("made by a newer version of this program (schema {applied})")),
        ));
    }
    for migration in MIGRATIONS.iter().skip(applied.max(0) as usize) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    transaction.commit()
}

/// Whether the tables are those of this program.
pub(super) fn is_current(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(version(connection)? == MIGRATIONS.len() as i64)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
