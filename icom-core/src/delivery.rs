//! A [`Delivery`] from iCom messages.
//!
//! Input: the snapshots of one record. Output: columns in [`trf_core::Delivery`]'s frame. Trust: none; a message that lacks a
//! position gives no control point. Unsupported: leaf counts other than 80 pairs.

use trf_core::Delivery;
use trf_core::delivery::Columns;

use crate::frame::{Frame, frames_of};
use crate::session::MetersetSum;
use crate::snapshot::{LEAF_PAIRS, Snapshot};
use crate::{Error, Result};

/// Which rules a delivery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// The first reading of a record that begins in mid-beam is kept, a field that restarts keeps its first reading, and
    /// messages without positions are left out.
    #[default]
    Complete,
    /// Equal to PyMedPhys's `Delivery.from_icom`, number by number; a message without positions is an error, as there.
    PyMedPhys,
}

/// Makes a delivery of the raw messages of a record.
///
/// # Errors
/// [`Error::Malformed`] if there is no message, or with [`Rules::PyMedPhys`] if one lacks an item.
pub fn from_icom(bytes: &[u8], rules: Rules) -> Result<Delivery> {
    let (frames, _) = frames_of(bytes);
    if frames.is_empty() {
        return Err(Error::Malformed {
            section: "iCom record",
            offset: 0,
            expected: "a message with date and time",
            found: format!("none in {} bytes", bytes.len()),
        });
    }
    from_frames(&frames, rules)
}

/// Makes a delivery of frames; see [`from_icom`].
///
/// # Errors
/// As [`from_icom`].
pub fn from_frames(frames: &[Frame], rules: Rules) -> Result<Delivery> {
    let mut columns = Columns::default();
    let mut meterset = MetersetSum::default();
    let mut pymedphys = (None, 0.0);
    for frame in frames {
        let snapshot = Snapshot::read(frame.linac_time, frame.counter, frame.items());
        if !snapshot.has_delivery() && rules == Rules::PyMedPhys {
            return Err(Error::Malformed {
                section: "message",
                offset: frame.offset,
                expected: "Delivery MU, gantry, collimator, 160 leaves and 2 diaphragms",
                found: missing(&snapshot).join(", ") + " missing",
            });
        }
        let Some(meterset_mu) = snapshot.meterset_mu else { continue };
        let cumulative_mu = match rules {
            Rules::Complete => {
                meterset.add(meterset_mu);
                meterset.total_mu()
            }
            Rules::PyMedPhys => {
                let (before, total) = pymedphys;
                let total = total + before.map_or(0.0, |before: f64| (meterset_mu - before).max(0.0));
                pymedphys = (Some(meterset_mu), total);
                total
            }
        };
        push(&mut columns, &snapshot, cumulative_mu);
    }
    let delivery =
        Delivery::new(columns, LEAF_PAIRS).map_err(|error| Error::Misuse { what: error.to_string() })?;
    Ok(delivery.filter())
}

fn push(columns: &mut Columns, snapshot: &Snapshot, cumulative_mu: f64) {
    let (Some(gantry), Some(collimator), Some(mlc), Some(jaw)) = (
        snapshot.gantry_bipolar_deg,
        snapshot.collimator_bipolar_deg,
        snapshot.mlc_mm.as_ref(),
        snapshot.jaw_mm,
    ) else {
        return;
    };
    columns.meterset_mu.push(cumulative_mu);
    columns.gantry_bipolar_deg.push(gantry);
    columns.collimator_bipolar_deg.push(collimator);
    columns.mlc_mm.extend(mlc.iter().flatten());
    columns.jaw_mm.extend(jaw);
}

fn missing(snapshot: &Snapshot) -> Vec<&'static str> {
    [
        (snapshot.meterset_mu.is_none(), "Delivery MU"),
        (snapshot.gantry_bipolar_deg.is_none(), "gantry"),
        (snapshot.collimator_bipolar_deg.is_none(), "collimator"),
        (snapshot.mlc_mm.is_none(), "MLCX"),
        (snapshot.jaw_mm.is_none(), "ASYMY"),
    ]
    .into_iter()
    .filter_map(|(is_missing, name)| is_missing.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Message;

    fn record(metersets_mu: &[f64]) -> Vec<u8> {
        let message = |(n, mu): (usize, &f64)| {
            Message { counter: n as u8, meterset_mu: Some(*mu), gantry_deg: *mu, ..Message::example() }
                .encode()
        };
        metersets_mu.iter().enumerate().flat_map(message).collect()
    }

    #[test]
    fn complete_rules_keep_what_pymedphys_loses() {
        let bytes = record(&[50.0, 60.0, 60.0, 60.0, 5.0, 10.0]);
        let complete = from_icom(&bytes, Rules::Complete).unwrap();
        assert_eq!(complete.meterset_mu(), [0.0, 60.0, 60.0, 65.0, 70.0]);
        let compatible = from_icom(&bytes, Rules::PyMedPhys).unwrap();
        assert_eq!(compatible.meterset_mu(), [0.0, 10.0, 10.0, 15.0]);
    }

    #[test]
    fn bytes_without_a_message_are_an_error_that_says_so() {
        let error = from_icom(b"not icom", Rules::Complete).unwrap_err();
        assert!(error.to_string().contains("none in 8 bytes"));
    }
}
