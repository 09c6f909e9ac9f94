//! The clinic as Mosaiq's tables.

use chrono::{DateTime, Utc};
use rusqlite::{Connection, Result, params};

use super::{Clinic, Field};

/// Leaf pairs of the made-up linacs.
const LEAF_PAIRS: usize = 80;
/// Bytes of a leaf set in real rows: 100 numbers, zero after the last leaf.
const LEAF_SET_BYTES: usize = 200;

impl Clinic {
    /// Fills the tables that [`tds::mosaiq_tables`](crate::tds::mosaiq_tables) makes.
    ///
    /// # Errors
    /// What SQLite says, such as that a table or column is not there.
    pub fn fill(&self, tables: &Connection) -> Result<()> {
        let transaction = tables.unchecked_transaction()?;
        self.fill_people(tables)?;
        for field in &self.fields {
            self.fill_field(tables, field)?;
        }
        self.fill_treatments(tables)?;
        transaction.commit()
    }

    fn fill_people(&self, tables: &Connection) -> Result<()> {
        let mut staff = tables.prepare("INSERT INTO Staff (Staff_ID, Last_Name) VALUES (?1, ?2)")?;
        for linac in &self.linacs {
            // Names in Staff are typed by hand: real ones have blanks in front, behind and between.
            let (head, tail) = linac.name.split_at(linac.name.len() / 2);
            staff.execute(params![linac.staff_id, format!(" {head} {tail} ")])?;
        }
        staff.execute(params![805, "PHYSICIST"])?;
        let mut ident = tables.prepare("INSERT INTO Ident (IDENT_ID, Pat_Id1, IDA) VALUES (?1, ?2, ?3)")?;
        let mut names =
            tables.prepare("INSERT INTO Patient (Pat_ID1, Last_Name, First_Name) VALUES (?1, ?2, ?3)")?;
        for (n, patient) in self.patients.iter().enumerate() {
            ident.execute(params![n as i64 + 1, patient.pat_id1, patient.ida])?;
            names.execute(params![patient.pat_id1, patient.last_name, patient.first_name])?;
        }
        Ok(())
    }

    fn fill_field(&self, tables: &Connection, field: &Field) -> Result<()> {
        let mut fields = tables.prepare_cached(
            "INSERT INTO TxField (FLD_ID, FLD_SET_ID, Pat_ID1, Field_Label, Field_Name, Type_Enum, Meterset, Version)
             VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6, 0)",
        )?;
        let Field { field_id, pat_id1, label, name, type_enum, meterset_mu } = field;
        fields.execute(params![field_id, pat_id1, label, name, type_enum, meterset_mu])?;
        let mut points = tables.prepare_cached(
            "INSERT INTO TxFieldPoint
             (FLD_ID, Point, [Index], A_Leaf_Set, B_Leaf_Set, MLC_Leaves, Gantry_Ang, Coll_Ang, Coll_Y1, Coll_Y2)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?;
        for point in 0..2 {
            let half_cm = 3.0 + point as f64;
            let (a, b) = (leaf_set(half_cm), leaf_set(-half_cm));
            let leaves = LEAF_PAIRS as i64;
            points.execute(params![field_id, point, point as f64, a, b, leaves, 270.0, 10.0, -5.0, 5.0])?;
        }
        Ok(())
    }

    fn fill_treatments(&self, tables: &Connection) -> Result<()> {
        let mut insert = tables.prepare(
            "INSERT INTO TrackTreatment (TTX_ID, Pat_ID1, FLD_ID, DHS_ID, Machine_ID_Staff_ID, Create_DtTm, Edit_DtTm,
             WasQAMode, WasBeamComplete, WasBeamOn, WasCanceled, WasRecorded)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?;
        for row in self.rows.iter().filter(|row| !row.deleted) {
            let field = &self.fields[row.field];
            let dhs_id = row.beam_on.then_some(row.ttx_id + 400_000);
            let times = [row.created, row.edited].map(|time| self.datetime(time));
            let flags = (row.qa_mode, row.beam_complete, row.beam_on, row.canceled);
            insert.execute(params![
                row.ttx_id,
                field.pat_id1,
                field.field_id,
                dhs_id,
                self.linacs[row.linac].staff_id,
                times[0],
                times[1],
                flags.0,
                flags.1,
                flags.2,
                flags.3,
                row.beam_on
            ])?;
        }
        Ok(())
    }

    /// A time as the server's wall clock shows it.
    fn datetime(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.settings.zone).format("%Y-%m-%d %H:%M:%S%.3f").to_string()
    }
}

/// All leaves of a bank at one place, in steps of 0.01 cm.
fn leaf_set(position_cm: f64) -> Vec<u8> {
    let mut bytes = [(position_cm * 100.0) as i16; LEAF_PAIRS]
        .iter()
        .flat_map(|leaf| leaf.to_le_bytes())
        .collect::<Vec<_>>();
    bytes.resize(LEAF_SET_BYTES, 0);
    bytes
}
