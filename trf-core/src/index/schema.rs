//! The tables, as numbered migrations: one is added at the end, none is ever changed. `user_version` counts those applied.

/// See the module.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE item_lists (
    id    INTEGER PRIMARY KEY,
    items BLOB NOT NULL UNIQUE          -- item, part, item, part …: little-endian 16-bit numbers
);
CREATE TABLE entries (
    id                   INTEGER PRIMARY KEY,
    sha256               BLOB NOT NULL UNIQUE,
    sha1                 BLOB NOT NULL,
    bytes                INTEGER NOT NULL,
    path                 TEXT NOT NULL UNIQUE,
    state                TEXT NOT NULL,
    reason               TEXT,
    linac                TEXT,
    centre               TEXT,
    machine              TEXT,
    field_label          TEXT,
    field_name           TEXT,
    utc_text             TEXT,
    utc_offset_text      TEXT,
    start_ms             INTEGER,            -- since 1970, UTC
    end_ms               INTEGER,
    local_time           TEXT,
    total_dose_tenth_mu  REAL,
    delivered_mu         REAL,
    beams_mu             TEXT,
    version              INTEGER,
    rows                 INTEGER,
    item_list            INTEGER REFERENCES item_lists (id),
    part_of              TEXT,               -- SHA-256 of the first record of an interrupted delivery, hexadecimal
    part                 INTEGER,
    parts                INTEGER,
    drift_s              REAL,
    tries                INTEGER NOT NULL,
    next_try_s           INTEGER,
    decided_by           TEXT,
    added_s              INTEGER NOT NULL
);
CREATE INDEX entries_by_sha1 ON entries (sha1);
CREATE INDEX entries_by_machine ON entries (machine, local_time);
CREATE INDEX entries_by_linac ON entries (linac, local_time);
CREATE INDEX entries_by_label ON entries (field_label, local_time);
CREATE INDEX entries_by_field ON entries (field_name, local_time);
CREATE INDEX entries_by_time ON entries (local_time);
CREATE INDEX entries_by_next_try ON entries (next_try_s) WHERE next_try_s IS NOT NULL;
CREATE INDEX entries_not_indexed ON entries (state, local_time) WHERE state <> 'indexed';
CREATE TABLE treatments (
    entry          INTEGER NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
    candidate      INTEGER NOT NULL,    -- 0: it is this one; 1, 2 …: it could be
    position       INTEGER NOT NULL,    -- several where fields ran as one record
    behind         REAL,
    drift_s        REAL,
    ttx_id         INTEGER,
    dhs_id         INTEGER,
    pat_id1        INTEGER,
    patient_id     TEXT,
    last_name      TEXT NOT NULL,
    first_name     TEXT NOT NULL,
    field_id       INTEGER NOT NULL,
    field_label    TEXT NOT NULL,
    field_name     TEXT NOT NULL,
    field_type     TEXT NOT NULL,
    meterset_mu    REAL,
    delivered_mu   REAL,
    created_local  TEXT,
    edited_local   TEXT,
    qa_mode        INTEGER NOT NULL,
    beam_completed INTEGER NOT NULL,
    PRIMARY KEY (entry, candidate, position)
) WITHOUT ROWID;
CREATE INDEX treatments_by_patient ON treatments (patient_id, candidate);
CREATE INDEX treatments_by_field_id ON treatments (field_id, candidate);
CREATE INDEX treatments_by_ttx_id ON treatments (ttx_id) WHERE ttx_id IS NOT NULL;
CREATE TABLE drifts (                   -- what a linac's clock showed more than the server's
    machine  TEXT NOT NULL,
    day      TEXT NOT NULL,
    seconds  REAL NOT NULL,
    spread_s REAL NOT NULL,
    n_pairs  INTEGER NOT NULL,
    PRIMARY KEY (machine, day)
) WITHOUT ROWID;
CREATE TABLE moves (                    -- what is under way between a file and its row
    id        INTEGER PRIMARY KEY,
    sha256    BLOB NOT NULL,
    from_path TEXT NOT NULL,            -- relative to the root, or absolute
    to_path   TEXT NOT NULL,
    entry     TEXT NOT NULL,            -- the row to be, as JSON
    item_list INTEGER,
    done      INTEGER NOT NULL DEFAULT 0
);
", "
-- A field of a machine, nearest to a time: the keys of one column alone would go through all that the machine delivered.
CREATE INDEX entries_by_machine_name ON entries (machine, field_name, local_time);
CREATE INDEX entries_by_machine_label ON entries (machine, field_label, local_time);
CREATE INDEX entries_by_machine_field ON entries (machine, field_label, field_name, local_time);
CREATE INDEX entries_by_linac_name ON entries (linac, field_name, local_time);
CREATE INDEX entries_by_linac_label ON entries (linac, field_label, local_time);
CREATE INDEX entries_by_linac_field ON entries (linac, field_label, field_name, local_time);
"];
