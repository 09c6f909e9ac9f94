//! From the columns of a TRF record to a [`Delivery`]: the one place where Elekta's items become our arrays.
//!
//! Input: a decoded [`Record`]. Output: one control point per row. Trust: items may be missing (an error names the first) or
//! stand in any order. Not supported: heads with other than 80 leaf pairs, which have no items that we know.

use crate::delivery::{Columns, accumulate_increases};
use crate::items::{self, ItemPart};
use crate::{Delivery, Record, Result};

/// Counts per MU of the raw dose counter.
const COUNTS_PER_MU: f64 = 64.0;
/// Values after which the 16-bit dose counter begins anew.
const COUNTER_RANGE: f64 = 65536.0;
/// More counts than any linac delivers in one row of 40 ms (16 MU); a larger step back is a restart, not a wrap.
const MAX_COUNTS_PER_ROW: f64 = 1024.0;

/// Which dose column becomes the meterset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MetersetSource {
    /// The raw counter: 1/64 MU, unwrapped at 1024 MU, carried across restarts between beams. The better one.
    #[default]
    RawCounter,
    /// Step Dose: 0.1 MU, as PyMedPhys takes it; loses what a wrapped or restarted counter shows at once.
    StepDose,
}

impl Delivery {
    /// The delivery that a record logs, one control point per row.
    ///
    /// Beams begin where the dose counter restarts. A record without rows gives an empty delivery.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if a column is missing, naming it.
    ///
    /// # Source
    /// Equal to PyMedPhys's `Delivery.from_trf` with [`MetersetSource::StepDose`], exact on 14 records.
    pub fn from_record(record: &Record, source: MetersetSource) -> Result<Self> {
        let counter = || record.required(items::DOSE_RAW).map(|column| column.values());
        let (meterset_mu, beam_starts) = match source {
            MetersetSource::RawCounter => unwrap_counter(&counter()?),
            MetersetSource::StepDose => {
                let step_dose_mu = record.required(items::STEP_DOSE)?.values();
                let starts =
                    counter().map_or_else(|_| decreases(&step_dose_mu), |counts| unwrap_counter(&counts).1);
                (accumulate_increases(&step_dose_mu), starts)
            }
        };
        let leaves =
            (0..items::N_LEAF_PAIRS).flat_map(|leaf| [items::y1_leaf(leaf), items::y2_leaf(leaf)]).flatten();
        let columns = Columns {
            meterset_mu,
            gantry_bipolar_deg: record.required(items::GANTRY)?.values(),
            collimator_bipolar_deg: record.required(items::COLLIMATOR)?.values(),
            mlc_mm: row_major(record, leaves)?,
            jaw_mm: row_major(record, [items::X1_DIAPHRAGM, items::X2_DIAPHRAGM])?,
        };
        Self::new(columns, items::N_LEAF_PAIRS)?.with_beam_starts(beam_starts)
    }
}

/// Several columns side by side, `[row, column]`.
fn row_major(record: &Record, wanted: impl IntoIterator<Item = ItemPart>) -> Result<Vec<f64>> {
    let columns = wanted.into_iter().map(|item| record.required(item)).collect::<Result<Vec<_>>>()?;
    let mut values = Vec::with_capacity(record.n_rows() * columns.len());
    for row in record.row_chunks() {
        values.extend(columns.iter().filter_map(|column| column.value_in(row)));
    }
    Ok(values)
}

/// Meterset in MU from the raw counter, and the rows at which the counter restarted.
fn unwrap_counter(counts: &[f64]) -> (Vec<f64>, Vec<usize>) {
    let mut total = 0.0;
    let mut before = counts.first().copied().unwrap_or_default();
    let mut restarts = Vec::new();
    let meterset_mu = counts.iter().enumerate().map(|(row, &now)| {
        if now >= before {
            total += now - before;
        } else if before < COUNTER_RANGE && now + COUNTER_RANGE - before <= MAX_COUNTS_PER_ROW {
            total += now + COUNTER_RANGE - before;
        } else {
            // What a restarted counter shows was delivered since.
            restarts.push(row);
            total += now;
        }
        before = now;
        total / COUNTS_PER_MU
    });
    (meterset_mu.collect(), restarts)
}

fn decreases(values: &[f64]) -> Vec<usize> {
    let pairs = values.iter().zip(values.iter().skip(1)).enumerate();
    pairs.filter(|(_, (before, after))| after < before).map(|(row, _)| row + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unwraps_the_counter_at_1024_mu_and_carries_restarts() {
        let (mu, restarts) = unwrap_counter(&[64.0, 128.0, 65500.0, 64.0, 0.0, 32.0]);
        assert_eq!(mu, [0.0, 1.0, 1022.4375, 1024.0, 1024.0, 1024.5]);
        assert_eq!(restarts, [4]);
        let (mu, restarts) = unwrap_counter(&[0.0, 742.0, 19.0]);
        assert_eq!((mu.last().copied(), restarts), (Some(761.0 / 64.0), vec![2]));
        assert_eq!(unwrap_counter(&[]), (vec![], vec![]));
    }

    #[test]
    fn a_counter_of_32_bits_runs_through_65536() {
        let (mu, restarts) = unwrap_counter(&[0.0, 65600.0, 70000.0, 0.0, 64.0]);
        assert_eq!((mu.last().copied(), restarts), (Some(70064.0 / 64.0), vec![3]));
    }
}
