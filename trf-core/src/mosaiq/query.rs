//! What is asked of Mosaiq, and rows to values.

use std::collections::BTreeMap;

use chrono::{NaiveDateTime, TimeDelta};

use super::client::{Mosaiq, Parameter};
use super::field::{Field, FieldPoint};
use super::row::Values;
use super::{About, Activity, Machine, Right, Treatment};
use crate::{Error, Result};

/// The tables that are read.
const TABLES: [&str; 6] = ["TrackTreatment", "TxField", "TxFieldPoint", "Ident", "Patient", "Staff"];
/// Entries of Staff that have one machine's name; more are no machine.
const MOST_ENTRIES: usize = 16;
/// A treatment that began earlier is over, whatever was edited since.
const LONGEST_TREATMENT: TimeDelta = TimeDelta::hours(12);

impl Mosaiq {
    /// The entries of a machine; spaces do not count on either side.
    ///
    /// # Errors
    /// [`Error::Misuse`] if Mosaiq has no entry of this name; [`Error::Unreachable`] and others as every query.
    pub async fn machine(&mut self, name: &str) -> Result<Vec<Machine>> {
        let wanted = without_spaces(name);
        let sql = "SELECT Staff.Staff_ID, Staff.Last_Name FROM Staff \
                   WHERE REPLACE(Staff.Last_Name, ' ', '') = @P1 ORDER BY Staff.Staff_ID";
        let machines = self.machines_of(sql, &[Parameter::Text(&wanted)]).await?;
        if wanted.is_empty() || machines.is_empty() {
            return Err(Error::misuse(format!("Mosaiq knows no machine called {name:?}")).with_hint(
                "set mosaiq_name in [[site.linac]] to one of the names that `scp-node mosaiq check` lists",
            ));
        }
        if machines.len() > MOST_ENTRIES {
            return Err(Error::Limit {
                what: "number of Mosaiq's entries with the machine's name",
                found: machines.len() as u64,
                limit: MOST_ENTRIES as u64,
            });
        }
        Ok(machines)
    }

    /// All machines that treated since a time.
    ///
    /// # Errors
    /// As every query: [`Error::Unreachable`], [`Error::PeerMisbehaved`], [`Error::Unsupported`], each with a hint.
    pub async fn machines_since(&mut self, since_local: NaiveDateTime) -> Result<Vec<Machine>> {
        let sql = "SELECT Staff.Staff_ID, Staff.Last_Name FROM Staff WHERE Staff.Staff_ID IN (SELECT \
                   TrackTreatment.Machine_ID_Staff_ID FROM TrackTreatment \
                   WHERE TrackTreatment.Create_DtTm >= CAST(@P1 AS datetime)) ORDER BY Staff.Last_Name";
        self.machines_of(sql, &[Parameter::Time(since_local)]).await
    }

    async fn machines_of(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Machine>> {
        let rows = self.select(sql, parameters).await?;
        let machine = |row| {
            let values = Values { row, peer: self.peer() };
            Ok(Machine { staff_id: values.integer(0)?, name: values.text(1)? })
        };
        rows.iter().map(machine).collect()
    }

    /// What a machine did in a span of the server's wall clock: rows that began in it, or up to 12 hours before it and were
    /// edited in it. In the order of their beginning; one per TTX_ID, also where a patient has several entries in Ident.
    ///
    /// # Arguments
    /// * `machine` — as Mosaiq calls it, see [`Mosaiq::machine`]
    /// * `from_local`, `until_local` — the server's wall clock, the end not included
    /// # Errors
    /// As [`Mosaiq::machine`]; [`Error::Limit`] for a span with more than 200,000 rows.
    pub async fn treatments(
        &mut self,
        machine: &str,
        from_local: NaiveDateTime,
        until_local: NaiveDateTime,
    ) -> Result<Vec<Treatment>> {
        let staff = self.machine(machine).await?;
        let sql = format!(
            "SELECT TrackTreatment.TTX_ID, TrackTreatment.DHS_ID, TrackTreatment.Pat_ID1, Ident.IDA, Patient.Last_Name, \
             Patient.First_Name, TxField.FLD_ID, TxField.Field_Label, TxField.Field_Name, TxField.Type_Enum, \
             TxField.Meterset, TrackTreatment.Create_DtTm, TrackTreatment.Edit_DtTm, TrackTreatment.WasQAMode, \
             TrackTreatment.WasBeamComplete, TrackTreatment.WasBeamOn, TrackTreatment.WasCanceled \
             FROM TrackTreatment \
             JOIN TxField ON TxField.FLD_ID = TrackTreatment.FLD_ID \
             JOIN Patient ON Patient.Pat_ID1 = TrackTreatment.Pat_ID1 \
             LEFT JOIN Ident ON Ident.Pat_ID1 = TrackTreatment.Pat_ID1 \
             WHERE TrackTreatment.Machine_ID_Staff_ID IN ({}) \
             AND TrackTreatment.Create_DtTm >= CAST(@P1 AS datetime) \
             AND TrackTreatment.Create_DtTm < CAST(@P2 AS datetime) \
             AND (TrackTreatment.Create_DtTm >= CAST(@P3 AS datetime) \
             OR TrackTreatment.Edit_DtTm >= CAST(@P3 AS datetime)) \
             ORDER BY TrackTreatment.Create_DtTm, TrackTreatment.TTX_ID, Ident.IDA",
            places(4, staff.len())
        );
        let earliest = from_local.checked_sub_signed(LONGEST_TREATMENT).unwrap_or(from_local);
        let mut parameters =
            vec![Parameter::Time(earliest), Parameter::Time(until_local), Parameter::Time(from_local)];
        parameters.extend(staff.iter().map(|machine| Parameter::Integer(machine.staff_id)));
        let rows = self.select(&sql, &parameters).await?;
        let mut treatments: Vec<Treatment> = Vec::with_capacity(rows.len());
        let mut places: BTreeMap<i64, usize> = BTreeMap::new();
        for row in &rows {
            let treatment = treatment(&Values { row, peer: self.peer() })?;
            match places.get(&treatment.ttx_id).and_then(|&place| treatments.get_mut(place)) {
                Some(known) => known.patient_id = known.patient_id.take().or(treatment.patient_id),
                None => {
                    places.insert(treatment.ttx_id, treatments.len());
                    treatments.push(treatment);
                }
            }
        }
        Ok(treatments)
    }

    /// How much a machine did since a time.
    ///
    /// # Errors
    /// As [`Mosaiq::machine`].
    pub async fn activity(&mut self, machine: &str, since_local: NaiveDateTime) -> Result<Activity> {
        let staff = self.machine(machine).await?;
        let sql = format!(
            "SELECT COUNT(*) AS n_rows, MAX(TrackTreatment.Create_DtTm) AS last_local FROM TrackTreatment \
             WHERE TrackTreatment.Machine_ID_Staff_ID IN ({}) \
             AND TrackTreatment.Create_DtTm >= CAST(@P1 AS datetime)",
            places(2, staff.len())
        );
        let mut parameters = vec![Parameter::Time(since_local)];
        parameters.extend(staff.iter().map(|machine| Parameter::Integer(machine.staff_id)));
        let rows = self.select(&sql, &parameters).await?;
        let values = self.only(rows.first())?;
        Ok(Activity { n_rows: values.integer(0)?, last_local: values.maybe_time(1)? })
    }

    /// A field as it was planned.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there is no such field, [`Error::Unsupported`] and [`Error::Malformed`] as [`Field::delivery`]
    /// describes, and as every query.
    pub async fn field(&mut self, field_id: i64) -> Result<Field> {
        let sql = "SELECT TxField.Field_Label, TxField.Field_Name, TxField.Type_Enum, TxField.Meterset FROM TxField \
                   WHERE TxField.FLD_ID = @P1";
        let rows = self.select(sql, &[Parameter::Integer(field_id)]).await?;
        let row = match rows.as_slice() {
            [row] => row,
            [] => {
                return Err(Error::misuse(format!("Mosaiq has no field with FLD_ID {field_id}"))
                    .with_hint("look its number up with `scp-node trf find`, or in Mosaiq's TxField"));
            }
            rows => {
                let what = format!("it has {} fields with FLD_ID {field_id}", rows.len());
                return Err(Error::PeerMisbehaved { peer: self.peer().to_owned(), what });
            }
        };
        let values = Values { row, peer: self.peer() };
        let mut field = Field {
            field_id,
            label: values.text(0)?,
            name: values.text(1)?,
            field_type: i32::try_from(values.maybe_integer(2)?.unwrap_or_default()).unwrap_or_default(),
            meterset_mu: values.maybe_number(3)?,
            points: Vec::new(),
        };
        let sql = "SELECT TxFieldPoint.[Index], TxFieldPoint.A_Leaf_Set, TxFieldPoint.B_Leaf_Set, TxFieldPoint.Gantry_Ang, \
                   TxFieldPoint.Coll_Ang, TxFieldPoint.Coll_Y1, TxFieldPoint.Coll_Y2, TxFieldPoint.MLC_Leaves FROM TxFieldPoint \
                   WHERE TxFieldPoint.FLD_ID = @P1 ORDER BY TxFieldPoint.Point";
        for row in &self.select(sql, &[Parameter::Integer(field_id)]).await? {
            let values = Values { row, peer: self.peer() };
            field.points.push(FieldPoint {
                index: values.maybe_number(0)?,
                n_pairs: values.maybe_integer(7)?.map(|n| usize::try_from(n).unwrap_or_default()),
                a_leaf_set: values.bytes(1)?,
                b_leaf_set: values.bytes(2)?,
                gantry_iec_deg: values.maybe_number(3)?,
                collimator_iec_deg: values.maybe_number(4)?,
                jaw_y1_cm: values.maybe_number(5)?,
                jaw_y2_cm: values.maybe_number(6)?,
            });
        }
        Ok(field)
    }

    /// What the server says about itself, its clock and our rights.
    ///
    /// # Errors
    /// As every query: [`Error::Unreachable`], [`Error::PeerMisbehaved`], each with a hint.
    pub async fn about(&mut self) -> Result<About> {
        let sql = "SELECT @@VERSION AS product, CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)) AS version, \
                   CAST(SERVERPROPERTY('ServerName') AS nvarchar(128)) AS name, DB_NAME() AS db, SUSER_SNAME() AS login_name, \
                   GETDATE() AS local_time, GETUTCDATE() AS utc_time";
        let rows = self.select(sql, &[]).await?;
        let values = self.only(rows.first())?;
        let product = values.text(0)?.lines().next().unwrap_or_default().trim().to_owned();
        let mut about = About {
            server: values.maybe_text(2)?,
            product,
            version: values.maybe_text(1)?,
            database: values.maybe_text(3)?,
            login: values.maybe_text(4)?,
            rights: Vec::new(),
            local: values.time(5)?,
            utc: values.time(6)?,
        };
        for table in TABLES {
            let sql = "SELECT HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'SELECT') AS may_read, \
                       HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'INSERT') AS may_insert, \
                       HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'UPDATE') AS may_update, \
                       HAS_PERMS_BY_NAME(@P1, 'OBJECT', 'DELETE') AS may_delete";
            let rows = self.select(sql, &[Parameter::Text(table)]).await?;
            let values = self.only(rows.first())?;
            let read = values.maybe_integer(0)?.map(|may| may != 0);
            let write = values.flag(1)? || values.flag(2)? || values.flag(3)?;
            about.rights.push(Right { table, read, write });
        }
        Ok(about)
    }

    fn only<'a>(&'a self, row: Option<&'a tiberius::Row>) -> Result<Values<'a>> {
        let none =
            || Error::PeerMisbehaved { peer: self.peer().to_owned(), what: "its answer has no row".into() };
        Ok(Values { row: row.ok_or_else(none)?, peer: self.peer() })
    }
}

/// `@P4, @P5, …`
fn places(first: usize, n: usize) -> String {
    (first..first + n).map(|at| format!("@P{at}")).collect::<Vec<_>>().join(", ")
}

fn without_spaces(name: &str) -> String {
    name.chars().filter(|c| !c.is_whitespace()).collect()
}

fn treatment(values: &Values<'_>) -> Result<Treatment> {
    let created_local = values.time(11)?;
    Ok(Treatment {
        ttx_id: values.integer(0)?,
        dhs_id: values.maybe_integer(1)?,
        pat_id1: values.integer(2)?,
        patient_id: values.maybe_text(3)?,
        last_name: values.text(4)?,
        first_name: values.text(5)?,
        field_id: values.integer(6)?,
        field_label: values.text(7)?,
        field_name: values.text(8)?,
        field_type: i32::try_from(values.maybe_integer(9)?.unwrap_or_default()).unwrap_or_default(),
        meterset_mu: values.maybe_number(10)?,
        created_local,
        // Not edited since it was made.
        edited_local: values.maybe_time(12)?.unwrap_or(created_local),
        qa_mode: values.flag(13)?,
        beam_complete: values.flag(14)?,
        beam_on: values.flag(15)?,
        canceled: values.flag(16)?,
    })
}
