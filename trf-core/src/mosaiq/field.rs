//! A planned field of Mosaiq as a [`Delivery`].
//!
//! Input: what TxField and TxFieldPoint hold of one field. Output: control points in the frame that plans, records and iCom have
//! too. Trust: none in lengths, order and finiteness. Not supported: machines without an MLC or with one of other than 40
//! or 80 pairs, couch, wedge, energy.

use crate::delivery::Columns;
use crate::rtplan::PlanBeam;
use crate::rtplan::Scope;
use crate::rtplan::angles::{self, Turn};
use crate::{Delivery, Error, Result};

/// Widths of an Elekta MLC's leaves at the isocentre by the number of its pairs: Agility, MLCi2.
const LEAF_WIDTHS_MM: [(usize, f64); 2] = [(80, 5.0), (40, 10.0)];

/// A planned field.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// TxField.FLD_ID.
    pub field_id: i64,
    /// TxField.Field_Label, trimmed.
    pub label: String,
    /// TxField.Field_Name, trimmed.
    pub name: String,
    /// TxField.Type_Enum.
    pub field_type: i32,
    /// TxField.Meterset, MU.
    pub meterset_mu: Option<f64>,
    /// Rows of TxFieldPoint, by Point.
    pub points: Vec<FieldPoint>,
}

/// A row of TxFieldPoint; `None` is NULL there.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldPoint {
    /// Cumulative weight, in units of the last one's.
    pub index: Option<f64>,
    /// MLC_Leaves: number of leaf pairs, 0 without an MLC.
    pub n_pairs: Option<usize>,
    /// Leaves of bank A (IEC X1), 16-bit little-endian, 0.01 cm, positive along IEC X; zeros after the last one.
    pub a_leaf_set: Vec<u8>,
    /// Leaves of bank B (IEC X2), likewise.
    pub b_leaf_set: Vec<u8>,
    /// IEC.
    pub gantry_iec_deg: Option<f64>,
    /// IEC.
    pub collimator_iec_deg: Option<f64>,
    /// Along IEC Y.
    pub jaw_y1_cm: Option<f64>,
    /// Along IEC Y.
    pub jaw_y2_cm: Option<f64>,
}

impl Field {
    /// What is to be delivered: one control point per row, meterset from 0 to the field's.
    ///
    /// A field of one row is static: its position at 0 and at the field's meterset. Leaf sets are
    /// cut to MLC_Leaves; where that is not told, zeros at their end do not count. An odd byte count gets one 0x00 appended.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without rows, leaves or meterset; [`Error::Malformed`] for leaf sets of different lengths, weights that
    /// decrease or end at 0, values that are not finite.
    ///
    /// # Source
    /// PyMedPhys 0.41 `Delivery.from_mosaiq`, with its order of operations: equal bit by bit where both see the same leaves.
    /// The real tables in its package hold 200 bytes in every leaf set and the number of pairs in MLC_Leaves; it drops zeros at the end
    /// instead (a side effect of numpy's bytes, and the cause of its odd byte counts), so that closed last leaves are lost, or
    /// its rows disagree.
    pub fn delivery(&self) -> Result<Delivery> {
        let total_mu = self.meterset_mu.ok_or_else(|| {
            Error::unsupported(format!("field {} without a meterset", self.field_id)).with_hint(
                "choose a field that Mosaiq has dose for: setup fields and unfinished plans have none",
            )
        })?;
        if self.points.is_empty() {
            return Err(Error::unsupported(format!("field {} without control points", self.field_id))
                .with_hint(
                    "choose a field with an MLC: Mosaiq keeps no points for setup fields and electrons",
                ));
        }
        if self.points.iter().all(|point| point.n_pairs == Some(0)) {
            return Err(Error::unsupported(format!("field {} without an MLC", self.field_id))
                .with_hint("choose a field with leaves: electrons and fields without an MLC have none"));
        }
        let leaves = self.points.iter().map(Leaves::decode).collect::<Result<Vec<_>>>()?;
        let n_pairs = leaves.first().map_or(0, |leaves| leaves.bank_a_cm.len());
        if let Some(other) = leaves.iter().position(|leaves| leaves.bank_a_cm.len() != n_pairs) {
            return Err(malformed(
                format!("{n_pairs} leaf pairs in each row"),
                format!("another number in row {}", other + 1),
            ));
        }
        let angles = |what, angle| {
            let iec_deg = self.column(what, angle)?;
            angles::bipolar_deg(&iec_deg, &vec![Turn::None; iec_deg.len()], Scope::Full)
        };
        let jaw_y1_cm = self.column("positions of jaw Y1", |point| point.jaw_y1_cm)?;
        let jaw_y2_cm = self.column("positions of jaw Y2", |point| point.jaw_y2_cm)?;
        let mut columns = Columns {
            meterset_mu: self.meterset_mu(total_mu)?,
            gantry_bipolar_deg: angles("gantry angles", |point| point.gantry_iec_deg)?,
            collimator_bipolar_deg: angles("collimator angles", |point| point.collimator_iec_deg)?,
            mlc_mm: leaves.iter().flat_map(Leaves::pairs_mm).collect(),
            jaw_mm: jaw_y2_cm.iter().zip(jaw_y1_cm).flat_map(|(y2, y1)| [10.0 * y2, -10.0 * y1]).collect(),
        };
        if self.points.len() == 1 {
            for column in [
                &mut columns.gantry_bipolar_deg,
                &mut columns.collimator_bipolar_deg,
                &mut columns.mlc_mm,
                &mut columns.jaw_mm,
            ] {
                column.extend_from_within(..);
            }
        }
        Delivery::new(columns, n_pairs).map_err(|error| {
            malformed("finite values and a meterset that never decreases", error.to_string())
        })
    }

    /// The field as a beam to check records against; its number is the field's.
    ///
    /// # Errors
    /// As [`Field::delivery`]; [`Error::Unsupported`] for an MLC whose leaves' widths are not known.
    pub fn beam(&self) -> Result<PlanBeam> {
        let delivery = self.delivery()?;
        let n_pairs = delivery.n_pairs();
        let (_, width_mm) = LEAF_WIDTHS_MM.iter().find(|(n, _)| *n == n_pairs).ok_or_else(|| {
            Error::unsupported(format!("an MLC of {n_pairs} leaf pairs in field {}", self.field_id))
                .with_hint("Mosaiq does not tell the leaves' widths: check against the RT Plan instead")
        })?;
        let name = [self.label.as_str(), self.name.as_str()].join(" ").trim().to_owned();
        Ok(PlanBeam {
            number: i32::try_from(self.field_id)
                .map_err(|_| malformed("a FLD_ID of 32 bits", "a larger one"))?,
            name: (!name.is_empty()).then_some(name),
            meterset_mu: delivery.total_mu(),
            leaf_widths_mm: vec![*width_mm; n_pairs],
            delivery,
        })
    }

    /// A value of every row.
    fn column(&self, what: &str, value: fn(&FieldPoint) -> Option<f64>) -> Result<Vec<f64>> {
        self.points.iter().map(value).collect::<Option<_>>().ok_or_else(|| {
            Error::unsupported(format!("field {} without {what} in every control point", self.field_id))
                .with_hint("choose a field of a machine with an Elekta MLC, planned to its end")
        })
    }

    /// Cumulative meterset of the rows, as PyMedPhys sums it.
    fn meterset_mu(&self, total_mu: f64) -> Result<Vec<f64>> {
        if self.points.len() == 1 {
            return Ok(vec![0.0, total_mu]);
        }
        let indices = self.column("a cumulative weight", |point| point.index)?;
        let last = indices.last().copied().filter(|last| *last > 0.0 && last.is_finite());
        let last = last.ok_or_else(|| malformed("a last Index above 0", "another one"))?;
        let mut sum = 0.0;
        let mut before: Option<f64> = None;
        let cumulative = indices.iter().map(|index| {
            let mu = index / last * total_mu;
            sum += before.map_or(0.0, |before| mu - before);
            before = Some(mu);
            sum
        });
        Ok(cumulative.collect())
    }
}

/// Leaf positions of a row in Mosaiq's order and frame, cm.
struct Leaves {
    bank_a_cm: Vec<f64>,
    bank_b_cm: Vec<f64>,
}

impl Leaves {
    fn decode(point: &FieldPoint) -> Result<Self> {
        let bank = |leaf_set| Ok::<_, Error>(positions_cm(of_pairs(leaf_set, point.n_pairs)?));
        let leaves = Self { bank_a_cm: bank(&point.a_leaf_set)?, bank_b_cm: bank(&point.b_leaf_set)? };
        if leaves.bank_a_cm.is_empty() || leaves.bank_a_cm.len() != leaves.bank_b_cm.len() {
            return Err(malformed(
                "leaf sets A and B of one length",
                format!("{} and {} bytes", point.a_leaf_set.len(), point.b_leaf_set.len()),
            ));
        }
        Ok(leaves)
    }

    /// Pair after pair in the delivery's order, which is the reverse of Mosaiq's.
    fn pairs_mm(&self) -> impl Iterator<Item = f64> + '_ {
        let pairs = self.bank_a_cm.iter().zip(&self.bank_b_cm).rev();
        pairs.flat_map(|(a_cm, b_cm)| [10.0 * b_cm, -10.0 * a_cm])
    }
}

/// The bytes that hold leaves.
fn of_pairs(leaf_set: &[u8], n_pairs: Option<usize>) -> Result<&[u8]> {
    let Some(n_pairs) = n_pairs else {
        let end = leaf_set.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        return Ok(leaf_set.get(..end).unwrap_or_default());
    };
    let n_bytes = n_pairs.saturating_mul(2);
    if leaf_set.len() + 1 < n_bytes {
        let found = format!("{} bytes", leaf_set.len());
        return Err(malformed(format!("{n_bytes} bytes for {n_pairs} leaves"), found));
    }
    Ok(leaf_set.get(..n_bytes).unwrap_or(leaf_set))
}

/// 16-bit little-endian steps of 0.01 cm; a byte that lacks its second gets 0x00.
fn positions_cm(bytes: &[u8]) -> Vec<f64> {
    let steps = bytes.chunks(2).map(|pair| {
        let low = pair.first().copied().unwrap_or_default();
        i16::from_le_bytes([low, pair.get(1).copied().unwrap_or_default()])
    });
    steps.map(|step| f64::from(step) / 100.0).collect()
}

fn malformed(expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::malformed("Mosaiq field", 0, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(index: f64, a: &[i16], b: &[i16]) -> FieldPoint {
        let bytes = |steps: &[i16]| steps.iter().flat_map(|step| step.to_le_bytes()).collect();
        FieldPoint {
            index: Some(index),
            n_pairs: Some(a.len()),
            a_leaf_set: bytes(a),
            b_leaf_set: bytes(b),
            gantry_iec_deg: Some(270.0),
            collimator_iec_deg: Some(90.0),
            jaw_y1_cm: Some(-5.0),
            jaw_y2_cm: Some(7.5),
        }
    }

    fn field(points: Vec<FieldPoint>) -> Field {
        Field {
            field_id: 7,
            label: "1-1".into(),
            name: "AP".into(),
            field_type: 13,
            meterset_mu: Some(200.0),
            points,
        }
    }

    #[test]
    fn frames_units_and_order_are_the_deliverys() {
        let points = vec![point(0.0, &[-100, -1], &[100, 512]), point(50.0, &[-200, 3], &[150, 256])];
        let delivery = field(points).delivery().unwrap();
        assert_eq!(delivery.meterset_mu(), [0.0, 200.0]);
        assert_eq!(delivery.gantry_bipolar_deg(), [-90.0, -90.0]);
        assert_eq!(delivery.collimator_bipolar_deg(), [90.0, 90.0]);
        assert_eq!(delivery.jaw_at(0), Some([75.0, 50.0]));
        // The last leaf of Mosaiq comes first; bank B before bank A, which points the other way.
        assert_eq!(delivery.mlc_at(0).unwrap(), [51.2, 0.1, 10.0, 10.0]);
        assert_eq!(delivery.mlc_at(1).unwrap(), [25.6, -0.3, 15.0, 20.0]);
    }

    #[test]
    fn a_field_of_one_point_is_static() {
        let delivery = field(vec![point(0.0, &[-100], &[100])]).delivery().unwrap();
        assert_eq!(delivery.meterset_mu(), [0.0, 200.0]);
        assert_eq!(delivery.mlc_mm(), [10.0, 10.0, 10.0, 10.0]);
        assert_eq!(delivery.jaw_mm(), [75.0, 50.0, 75.0, 50.0]);
    }

    #[test]
    fn a_leaf_set_that_lost_its_last_byte_gets_it_back() {
        let mut short = point(1.0, &[-100, 5], &[100, 5]);
        short.a_leaf_set.pop();
        short.b_leaf_set.pop();
        let whole = field(vec![point(1.0, &[-100, 5], &[100, 5])]).delivery().unwrap();
        assert_eq!(field(vec![short.clone()]).delivery().unwrap(), whole);
        short.n_pairs = None;
        assert_eq!(field(vec![short]).delivery().unwrap(), whole);
    }

    #[test]
    fn zeros_after_the_last_leaf_do_not_count_and_closed_leaves_do() {
        let whole = point(1.0, &[-100, 5, 0], &[100, 5, 0]);
        let mut padded = whole.clone();
        padded.a_leaf_set.resize(200, 0);
        padded.b_leaf_set.resize(200, 0);
        let delivery = field(vec![padded.clone()]).delivery().unwrap();
        assert_eq!(delivery, field(vec![whole]).delivery().unwrap());
        assert_eq!(delivery.n_pairs(), 3);
        padded.n_pairs = None;
        assert_eq!(field(vec![padded]).delivery().unwrap().n_pairs(), 2);
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        let good = || point(1.0, &[-100, 5], &[100, 5]);
        let mut no_meterset = field(vec![good()]);
        no_meterset.meterset_mu = None;
        let mut not_finite = good();
        not_finite.jaw_y1_cm = Some(f64::NAN);
        let mut no_jaws = good();
        no_jaws.jaw_y2_cm = None;
        let mut too_short = good();
        too_short.n_pairs = Some(80);
        let cases = [
            (field(vec![no_jaws]), "without positions of jaw Y2"),
            (field(vec![too_short]), "160 bytes for 80 leaves"),
            (no_meterset, "without a meterset"),
            (field(Vec::new()), "without control points"),
            (field(vec![FieldPoint { n_pairs: None, ..point(0.0, &[1], &[1, 2]) }]), "of one length"),
            (field(vec![point(0.0, &[], &[])]), "without an MLC"),
            (field(vec![point(0.0, &[1], &[1]), good()]), "1 leaf pairs"),
            (field(vec![good(), point(0.0, &[1, 2], &[1, 2])]), "above 0"),
            (field(vec![point(2.0, &[1, 2], &[1, 2]), good()]), "never decreases"),
            (field(vec![not_finite.clone(), not_finite]), "finite"),
        ];
        for (field, what) in cases {
            let error = field.delivery().unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert!(!error.hint().is_empty());
        }
        assert!(field(vec![good()]).beam().unwrap_err().to_string().contains("2 leaf pairs"));
    }

    #[test]
    fn an_agility_field_becomes_a_beam() {
        let beam = field(vec![point(0.0, &[-100; 80], &[100; 80])]).beam().unwrap();
        assert_eq!((beam.number, beam.name.as_deref(), beam.meterset_mu), (7, Some("1-1 AP"), 200.0));
        assert_eq!(beam.leaf_widths_mm, [5.0; 80]);
    }
}
