//! The state of a linac that one message tells, with unit and frame in every name.
//!
//! Input: the items of one message. Output: [`Snapshot`], in which whatever the message does not say, or says as "no value",
//! is `None`. Trust: none. Only the R part (actual values) and the P part of names are read; the rest stays in the items.
//!
//! # Source
//! Meaning and unit of the items: inferred from PyMedPhys (see [`crate::item::tag`]). Items whose unit nobody has
//! confirmed in public end in `_raw` and are passed on as sent.

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::item::{Item, Part, tag};

/// Leaf pairs of an Agility.
pub const LEAF_PAIRS: usize = 80;

/// What one message says. Absent means not sent, or sent as "no value"; never a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The linac's local clock, one second resolution, no zone.
    pub linac_time: NaiveDateTime,
    /// Message counter, modulo 256.
    pub counter: u8,
    /// The linac's name.
    pub machine_id: Option<String>,
    /// Present while a patient is open; in service mode the name of the stored beam.
    pub patient_id: Option<String>,
    /// As the record-and-verify system sent it.
    pub patient_name: Option<String>,
    /// Prescription site.
    pub rx_site: Option<String>,
    /// Field (beam) ID.
    pub field_id: Option<String>,
    /// Description of the beam.
    pub beam_description: Option<String>,
    /// `XRAY` or `ELECTRON`.
    pub radiation_type: Option<String>,
    /// Energy with its unit, such as `6 MV FFF`.
    pub energy: Option<String>,
    /// `IN` or `OUT`.
    pub wedge: Option<String>,
    /// Control point that runs.
    pub segment: Option<i64>,
    /// Monitor units of the whole field.
    pub total_mu: Option<f64>,
    /// Monitor units of the segment.
    pub segment_mu: Option<f64>,
    /// Delivered monitor units of this field, first channel.
    pub meterset_mu: Option<f64>,
    /// Delivered monitor units of this field, second channel.
    pub backup_meterset_mu: Option<f64>,
    /// Beam timer as sent; its unit is not confirmed.
    pub beam_timer_raw: Option<f64>,
    /// Gantry as sent, −180 to 180 degrees.
    pub gantry_bipolar_deg: Option<f64>,
    /// Gantry, IEC 61217, [0, 360) degrees.
    pub gantry_iec_deg: Option<f64>,
    /// Collimator as sent, −180 to 180 degrees.
    pub collimator_bipolar_deg: Option<f64>,
    /// Collimator, IEC 61217, [0, 360) degrees.
    pub collimator_iec_deg: Option<f64>,
    /// PyMedPhys's "Table Column", degrees as sent. Which of the two table angles is which is not confirmed.
    pub table_column_deg: Option<f64>,
    /// PyMedPhys's "Table Isocentric", degrees as sent.
    pub table_isocentric_deg: Option<f64>,
    /// Table height as sent; its unit is not confirmed.
    pub table_vertical_raw: Option<f64>,
    /// Table along as sent; its unit is not confirmed.
    pub table_longitudinal_raw: Option<f64>,
    /// Table across as sent; its unit is not confirmed.
    pub table_lateral_raw: Option<f64>,
    /// Leaf tips, `[pair, bank]`, mm, in [`trf_core::Delivery`]'s frame; absent unless all 80 pairs were sent.
    pub mlc_mm: Option<Vec<[f64; 2]>>,
    /// Diaphragms, `[side]`, mm, in [`trf_core::Delivery`]'s frame (wire label `ASYMY`).
    pub jaw_mm: Option<[f64; 2]>,
    /// The two values under the label `ASYMX` as sent, cm; their sign is not confirmed.
    pub asymx_cm_raw: Option<[f64; 2]>,
    /// Interlocks that are active.
    pub interlocks: Vec<String>,
    /// Interlocks that were active.
    pub previous_interlocks: Vec<String>,
}

impl Snapshot {
    /// Nothing known but the header.
    #[must_use]
    pub const fn empty(linac_time: NaiveDateTime, counter: u8) -> Self {
        Self {
            linac_time,
            counter,
            machine_id: None,
            patient_id: None,
            patient_name: None,
            rx_site: None,
            field_id: None,
            beam_description: None,
            radiation_type: None,
            energy: None,
            wedge: None,
            segment: None,
            total_mu: None,
            segment_mu: None,
            meterset_mu: None,
            backup_meterset_mu: None,
            beam_timer_raw: None,
            gantry_bipolar_deg: None,
            gantry_iec_deg: None,
            collimator_bipolar_deg: None,
            collimator_iec_deg: None,
            table_column_deg: None,
            table_isocentric_deg: None,
            table_vertical_raw: None,
            table_longitudinal_raw: None,
            table_lateral_raw: None,
            mlc_mm: None,
            jaw_mm: None,
            asymx_cm_raw: None,
            interlocks: Vec::new(),
            previous_interlocks: Vec::new(),
        }
    }

    /// Reads the items of one message.
    pub fn read<'a>(
        linac_time: NaiveDateTime,
        counter: u8,
        items: impl IntoIterator<Item = Item<'a>>,
    ) -> Self {
        let mut snapshot = Self::empty(linac_time, counter);
        let mut block = Block::default();
        for item in items {
            match (item.tag, item.part) {
                (tag::DEVICE_LABEL, Part::Run) => {
                    block.finish(&mut snapshot);
                    block = Block::begin(&item);
                }
                (tag::POSITION, Part::Run) => block.positions_cm.push(item.number()),
                _ => {
                    block.finish(&mut snapshot);
                    snapshot.read_item(&item);
                }
            }
        }
        block.finish(&mut snapshot);
        snapshot
    }

    /// True if PyMedPhys's `Delivery.from_icom` finds in the message what it needs in every one.
    #[must_use]
    pub const fn has_delivery(&self) -> bool {
        self.meterset_mu.is_some()
            && self.gantry_bipolar_deg.is_some()
            && self.collimator_bipolar_deg.is_some()
            && self.mlc_mm.is_some()
            && self.jaw_mm.is_some()
    }

    fn read_item(&mut self, item: &Item<'_>) {
        let text = || Some(item.text().into_owned()).filter(|text| !text.is_empty() && text != "-32767");
        match (item.tag, item.part) {
            (tag::PATIENT_ID, Part::Prescribed) => keep(&mut self.patient_id, text),
            (tag::PATIENT_NAME, Part::Prescribed) => keep(&mut self.patient_name, text),
            (tag::RX_SITE, Part::Prescribed) => keep(&mut self.rx_site, text),
            (tag::FIELD_ID, Part::Prescribed) => keep(&mut self.field_id, text),
            (tag::MACHINE_ID, Part::Prescribed) => keep(&mut self.machine_id, text),
            (tag::BEAM_DESCRIPTION, Part::Run) => keep(&mut self.beam_description, text),
            (tag::RADIATION_TYPE, Part::Run) => keep(&mut self.radiation_type, text),
            (tag::ENERGY, Part::Run) => keep(&mut self.energy, text),
            (tag::WEDGE, Part::Run) => keep(&mut self.wedge, text),
            (tag::SEGMENT, Part::Run) => keep(&mut self.segment, || integer(item.number())),
            (tag::TOTAL_MU, Part::Run) => keep(&mut self.total_mu, || item.number()),
            (tag::SEGMENT_MU, Part::Run) => keep(&mut self.segment_mu, || item.number()),
            (tag::METERSET, Part::Run) => keep(&mut self.meterset_mu, || item.number()),
            (tag::BACKUP_METERSET, Part::Run) => keep(&mut self.backup_meterset_mu, || item.number()),
            (tag::BEAM_TIMER, Part::Run) => keep(&mut self.beam_timer_raw, || item.number()),
            (tag::GANTRY, Part::Run) => {
                keep(&mut self.gantry_bipolar_deg, || item.number());
                self.gantry_iec_deg = self.gantry_bipolar_deg.map(iec_deg);
            }
            (tag::COLLIMATOR, Part::Run) => {
                keep(&mut self.collimator_bipolar_deg, || item.number());
                self.collimator_iec_deg = self.collimator_bipolar_deg.map(iec_deg);
            }
            (tag::TABLE_COLUMN, Part::Run) => keep(&mut self.table_column_deg, || item.number()),
            (tag::TABLE_ISOCENTRIC, Part::Run) => keep(&mut self.table_isocentric_deg, || item.number()),
            (tag::TABLE_VERTICAL, Part::Run) => keep(&mut self.table_vertical_raw, || item.number()),
            (tag::TABLE_LONGITUDINAL, Part::Run) => keep(&mut self.table_longitudinal_raw, || item.number()),
            (tag::TABLE_LATERAL, Part::Run) => keep(&mut self.table_lateral_raw, || item.number()),
            (tag::INTERLOCK, Part::Run) => self.interlocks.extend(text()),
            (tag::PREVIOUS_INTERLOCK, Part::Run) => self.previous_interlocks.extend(text()),
            _ => {}
        }
    }
}

/// The first value counts, as PyMedPhys has it.
fn keep<T>(place: &mut Option<T>, value: impl FnOnce() -> Option<T>) {
    if place.is_none() {
        *place = value();
    }
}

/// Elekta's bipolar scale to IEC 61217.
fn iec_deg(bipolar_deg: f64) -> f64 {
    let iec = bipolar_deg.rem_euclid(360.0);
    // rem_euclid of a tiny negative number rounds up to 360 itself.
    if iec >= 360.0 { 0.0 } else { iec }
}

fn integer(number: Option<f64>) -> Option<i64> {
    let number = number.filter(|number| number.fract() == 0.0 && number.abs() < 1e9)?;
    #[expect(clippy::cast_possible_truncation, reason = "a whole number below 1e9")]
    Some(number as i64)
}

/// Positions under one label.
#[derive(Default)]
struct Block {
    label: String,
    positions_cm: Vec<Option<f64>>,
}

impl Block {
    fn begin(item: &Item<'_>) -> Self {
        Self { label: item.text().into_owned(), positions_cm: Vec::new() }
    }

    fn finish(&mut self, snapshot: &mut Snapshot) {
        let block = std::mem::take(self);
        if block.label.is_empty() {
            return;
        }
        // One position without a value makes the block absent: a leaf at 0.0 that was not measured would be worse.
        let Some(cm) = block.positions_cm.into_iter().collect::<Option<Vec<f64>>>() else { return };
        match (block.label.as_str(), cm.as_slice()) {
            ("MLCX", leaves) if leaves.len() == LEAF_PAIRS * 2 && snapshot.mlc_mm.is_none() => {
                snapshot.mlc_mm = Some(mlc_mm(leaves));
            }
            ("ASYMY", &[first, second]) if snapshot.jaw_mm.is_none() => {
                snapshot.jaw_mm = Some([mm(second), mm(first)]);
            }
            ("ASYMX", &[first, second]) if snapshot.asymx_cm_raw.is_none() => {
                snapshot.asymx_cm_raw = Some([first, second]);
            }
            _ => {}
        }
    }
}

/// Wire order (pairs from one end, bank A then B, cm) to [`trf_core::Delivery`]'s: pairs from the other end, (B, −A), mm.
fn mlc_mm(leaves_cm: &[f64]) -> Vec<[f64; 2]> {
    leaves_cm
        .rchunks_exact(2)
        .filter_map(|pair| match pair {
            &[a, b] => Some([mm(b), mm(-a)]),
            _ => None,
        })
        .collect()
}

/// cm to mm, rounded to 10 decimals as PyMedPhys does, so that both give the same floats.
fn mm(cm: f64) -> f64 {
    (cm * 10.0 * 1e10).round_ties_even() / 1e10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Message, time};
    use crate::frame::frames_of;

    fn snapshot_of(message: &Message) -> Snapshot {
        let (frames, _) = frames_of(&message.encode());
        let frame = &frames[0];
        Snapshot::read(frame.linac_time, frame.counter, frame.items())
    }

    #[test]
    fn angles_carry_both_scales() {
        let snapshot =
            snapshot_of(&Message { gantry_deg: -90.5, collimator_deg: 179.0, ..Message::example() });
        assert_eq!(snapshot.gantry_bipolar_deg, Some(-90.5));
        assert_eq!(snapshot.gantry_iec_deg, Some(269.5));
        assert_eq!(snapshot.collimator_iec_deg, Some(179.0));
        assert!(iec_deg(-1e-17) < 360.0);
    }

    #[test]
    fn leaves_are_in_the_frame_of_delivery() {
        let mut message = Message::example();
        message.leaves_cm = (0..160).map(|n| f64::from(n) / 100.0).collect();
        message.asymy_cm = [3.0, 4.0];
        let snapshot = snapshot_of(&message);
        let mlc = snapshot.mlc_mm.unwrap();
        assert_eq!(mlc.len(), 80);
        assert_eq!(mlc[0], [15.9, -15.8]);
        assert_eq!(mlc[79], [0.1, 0.0]);
        assert_eq!(snapshot.jaw_mm, Some([40.0, 30.0]));
    }

    #[test]
    fn what_is_not_sent_is_absent() {
        let mut message = Message::example();
        message.patient = None;
        message.meterset_mu = None;
        message.leaves_cm.truncate(158);
        let snapshot = snapshot_of(&message);
        assert_eq!((snapshot.patient_id, snapshot.meterset_mu, snapshot.mlc_mm), (None, None, None));
        assert_eq!(snapshot.linac_time, time(0));
    }

    #[test]
    fn names_and_ids_come_whole_whatever_their_characters_and_length() {
        let mut message = Message::example();
        message.patient = Some(("9434765919".into(), "MÜLLER^JÜRGEN/60.20".into()));
        message.interlocks = vec!["Settings Not Confirmed".into(), "Door_2 \"open\"".into()];
        let snapshot = snapshot_of(&message);
        assert_eq!(snapshot.patient_id.as_deref(), Some("9434765919"));
        assert_eq!(snapshot.patient_name.as_deref(), Some("MÜLLER^JÜRGEN/60.20"));
        assert_eq!(snapshot.interlocks, ["Settings Not Confirmed", "Door_2 \"open\""]);
    }
}
