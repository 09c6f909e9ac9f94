//! Writes messages, for the emulated linac and for tests.
//!
//! Input: the state of a linac. Output: the bytes of one message in the grammar of [`crate::frame`] and [`crate::item`].
//! Unsupported: what is unknown of the header; the first four bytes carry the length, as they seem to on a real linac.

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};

use crate::item::{Part, Tag, tag};

/// What one message shall say.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Linac's local clock.
    pub linac_time: NaiveDateTime,
    /// Counter, modulo 256.
    pub counter: u8,
    /// Bytes between counter and first record.
    pub header_rest: Vec<u8>,
    /// Whether the first four bytes tell the length.
    pub length_field: bool,
    /// Linac's name.
    pub machine_id: String,
    /// ID and name of the open patient.
    pub patient: Option<(String, String)>,
    /// Field ID.
    pub field_id: String,
    /// Energy, with unit.
    pub energy: String,
    /// Control point.
    pub segment: u32,
    /// MU of the field.
    pub total_mu: f64,
    /// Delivered MU; `None` sends "no value".
    pub meterset_mu: Option<f64>,
    /// Gantry, −180 to 180 degrees.
    pub gantry_deg: f64,
    /// Collimator, −180 to 180 degrees.
    pub collimator_deg: f64,
    /// Leaves in wire order, cm.
    pub leaves_cm: Vec<f64>,
    /// Diaphragms in wire order, cm.
    pub asymy_cm: [f64; 2],
    /// Active interlocks.
    pub interlocks: Vec<String>,
    /// Items appended as they are.
    pub extra: Vec<(Tag, Part, Vec<u8>)>,
}

/// A linac clock that is the same everywhere: `second` seconds after 2025-11-21 07:00:00.
#[must_use]
pub fn time(second: i64) -> NaiveDateTime {
    let start = NaiveDate::from_ymd_opt(2025, 11, 21).and_then(|day| day.and_hms_opt(7, 0, 0));
    start.unwrap_or_default() + TimeDelta::seconds(second)
}

impl Message {
    /// A linac named `4299` with a patient and a static open field.
    #[must_use]
    pub fn example() -> Self {
        Self {
            linac_time: time(0),
            counter: 0,
            header_rest: vec![0, 1, 5, 0],
            length_field: true,
            machine_id: "4299".into(),
            patient: Some(("QA0001".into(), "PHYSICS, MOCK".into())),
            field_id: "1-1".into(),
            energy: "6 MV".into(),
            segment: 0,
            total_mu: 100.0,
            meterset_mu: Some(0.0),
            gantry_deg: 0.0,
            collimator_deg: 0.0,
            leaves_cm: (0..80).flat_map(|_| [-5.0, 5.0]).collect(),
            asymy_cm: [5.0, 5.0],
            interlocks: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 4, 4, 0, 0];
        bytes.extend_from_slice(self.linac_time.format("%Y-%m-%d%H:%M:%S").to_string().as_bytes());
        bytes.push(self.counter);
        bytes.extend_from_slice(&self.header_rest);
        self.encode_records(&mut bytes);
        if self.length_field {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
            bytes.iter_mut().zip(length).for_each(|(byte, value)| *byte = value);
        }
        bytes
    }

    fn encode_records(&self, bytes: &mut Vec<u8>) {
        use Part::{Prescribed, Run, Set};
        let decimals = |number: f64| format!("{number:.2}");
        if let Some((id, name)) = &self.patient {
            record(bytes, tag::PATIENT_NAME, *b"PN", Prescribed, name.as_bytes());
            record(bytes, tag::PATIENT_ID, *b"LO", Prescribed, id.as_bytes());
            record(bytes, tag::RX_SITE, *b"LO", Prescribed, b"PROSTATE 60/20");
            record(bytes, tag::FIELD_ID, *b"LO", Prescribed, self.field_id.as_bytes());
        }
        for part in [Prescribed, Set, Run] {
            record(bytes, tag::SEGMENT, *b"DS", part, self.segment.to_string().as_bytes());
        }
        record(bytes, tag::TOTAL_MU, *b"DS", Run, decimals(self.total_mu).as_bytes());
        for interlock in &self.interlocks {
            record(bytes, tag::INTERLOCK, *b"LO", Run, interlock.as_bytes());
        }
        let meterset = self.meterset_mu.map_or_else(|| "-32767".to_owned(), decimals);
        record(bytes, tag::METERSET, *b"DS", Run, meterset.as_bytes());
        record(bytes, tag::BACKUP_METERSET, *b"DS", Run, meterset.as_bytes());
        record(bytes, tag::MACHINE_ID, *b"SH", Prescribed, self.machine_id.as_bytes());
        for part in [Prescribed, Set, Run] {
            self.encode_positions(bytes, part);
        }
        record(bytes, tag::RADIATION_TYPE, *b"CS", Run, b"XRAY");
        record(bytes, tag::ENERGY, *b"SH", Run, self.energy.as_bytes());
        record(bytes, tag::WEDGE, *b"CS", Run, b"OUT");
        record(bytes, tag::GANTRY, *b"DS", Run, format!("{:.1}", self.gantry_deg).as_bytes());
        record(bytes, tag::COLLIMATOR, *b"DS", Run, format!("{:.1}", self.collimator_deg).as_bytes());
        record(bytes, tag::TABLE_COLUMN, *b"DS", Run, b"0");
        record(bytes, tag::TABLE_ISOCENTRIC, *b"DS", Run, b"0");
        record(bytes, tag::TABLE_VERTICAL, *b"DS", Run, b"-12.5");
        record(bytes, tag::TABLE_LONGITUDINAL, *b"DS", Run, b"100.0");
        record(bytes, tag::TABLE_LATERAL, *b"DS", Run, b"-32767");
        record(bytes, tag::BEAM_DESCRIPTION, *b"SH", Run, b"VMAT");
        record(bytes, tag::BEAM_TIMER, *b"SH", Run, b"0.25");
        record(bytes, tag::SEGMENT_MU, *b"DS", Run, decimals(self.total_mu).as_bytes());
        for (extra, part, value) in &self.extra {
            record(bytes, *extra, *b"LO", *part, value);
        }
    }

    fn encode_positions(&self, bytes: &mut Vec<u8>, part: Part) {
        let asymx = [5.0, 5.0];
        let blocks: [(&[u8], &[f64]); 3] =
            [(b"MLCX", &self.leaves_cm), (b"ASYMX", &asymx), (b"ASYMY", &self.asymy_cm)];
        for (label, positions_cm) in blocks {
            record(bytes, tag::DEVICE_LABEL, *b"DS", part, label);
            for position_cm in positions_cm {
                record(bytes, tag::POSITION, *b"DS", part, format!("{position_cm:.2}").as_bytes());
            }
        }
    }
}

/// Appends one record.
pub fn record(bytes: &mut Vec<u8>, tag: Tag, vr: [u8; 2], part: Part, value: &[u8]) {
    bytes.extend_from_slice(&tag.0.to_le_bytes());
    bytes.extend_from_slice(&tag.1.to_le_bytes());
    bytes.extend_from_slice(&vr);
    bytes.push(0);
    bytes.push(u8::try_from(part.letter()).unwrap_or(b'R'));
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(value);
}
