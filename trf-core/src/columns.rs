//! From the columns of a TRF record to a [`Delivery`]: the one place where Elekta's items become our arrays.
//!
//! Input: a decoded [`Record`]. Output: one control point per row. Trust: items may be missing (an error names the first) or
//! stand in any order. Not supported: heads with other than 80 leaf pairs, which have no items that we know.

use crate::delivery::{Columns, accumulate_increases};
use crate::items::{self, ItemPart};
use crate::{Delivery, Record, Result};

/// Which dose column becomes the meterset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MetersetSource {
    /// The raw counter, 1/64 MU, as [`Record::meterset`] sums it. The better one.
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
        let meterset = record.meterset()?;
        let meterset_mu = match source {
            MetersetSource::RawCounter => meterset.meterset_mu,
            MetersetSource::StepDose => accumulate_increases(&record.required(items::STEP_DOSE)?.values()),
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
        Self::new(columns, items::N_LEAF_PAIRS)?.with_beam_starts(meterset.beam_starts)
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
