//! All columns of a record at once, column by column in one array.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::header::Version;
use crate::items::Rule;
use crate::reader::Record;

/// All values of a record: `[n_columns, n_rows]`, each column contiguous, in the columns' units; codes stay numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    n_columns: usize,
    n_rows: usize,
    values: Vec<f64>,
}

impl Table {
    /// The values of the column at `index` of the file's order.
    pub fn column(&self, index: usize) -> Option<&[f64]> {
        if index >= self.n_columns {
            return None;
        }
        let start = index.checked_mul(self.n_rows)?;
        self.values.get(start..start.checked_add(self.n_rows)?)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The array, `[n_columns, n_rows]` in C order.
    pub fn into_values(self) -> Vec<f64> {
        self.values
    }
}

impl Record {
    /// Decodes all columns.
    pub fn table(&self) -> Table {
        let mut values = vec![0.0; self.n_values()];
        self.decode(&mut values);
        Table { n_columns: self.n_columns(), n_rows: self.n_rows(), values }
    }

    /// Decodes all columns into memory of the caller: `[n_columns, n_rows]`, as [`Record::table`] has them.
    ///
    /// # Errors
    /// [`Error::Misuse`] unless `values` has exactly that size.
    pub fn table_into(&self, values: &mut [f64]) -> Result<()> {
        if values.len() != self.n_values() {
            let (found, expected) = (values.len(), self.n_values());
            return Err(Error::misuse(format!("a table of {expected} values does not go into {found}")));
        }
        self.decode(values);
        Ok(())
    }

    fn n_values(&self) -> usize {
        self.n_rows().saturating_mul(self.n_columns())
    }

    fn decode(&self, values: &mut [f64]) {
        if self.n_rows() > 0 {
            // A group of columns shares each row's cache lines, so the file's bytes are read once per group.
            let group = COLUMNS_PER_GROUP * self.n_rows();
            let groups = values.par_chunks_mut(group).zip(self.rules().par_chunks(COLUMNS_PER_GROUP));
            groups.enumerate().for_each(|(g, (values, rules))| self.decode_group(g, rules, values));
        }
    }

    fn decode_group(&self, group: usize, rules: &[Rule], values: &mut [f64]) {
        let version = self.header().version;
        let start = version.prefix_bytes() + group * COLUMNS_PER_GROUP * version.value_bytes();
        let mut columns: Vec<_> = values.chunks_exact_mut(self.n_rows()).zip(rules).collect();
        let row_bytes = self.header().row_bytes();
        let mut first = 0;
        for block in self.rows().chunks(ROWS_PER_BLOCK * row_bytes) {
            let n = block.len() / row_bytes.max(1);
            for (offset, (column, rule)) in columns.iter_mut().enumerate() {
                let Some(out) = column.get_mut(first..first + n) else { continue };
                let at = start + offset * version.value_bytes();
                match version {
                    Version::V4 => decode::<4>(block, row_bytes, at, out, **rule, i32::from_le_bytes),
                    _ => decode::<2>(block, row_bytes, at, out, **rule, |b| i16::from_le_bytes(b).into()),
                }
            }
            first += n;
        }
    }
}

/// 32 columns of 16 bits are one cache line of a row.
const COLUMNS_PER_GROUP: usize = 32;
/// 64 rows of 32 columns are 64 cache lines, well inside the first-level cache.
const ROWS_PER_BLOCK: usize = 64;

/// Decodes the value at byte `at` of each row of `block` into `out`.
fn decode<const N: usize>(
    block: &[u8],
    row_bytes: usize,
    at: usize,
    out: &mut [f64],
    rule: Rule,
    read: impl Fn([u8; N]) -> i32,
) {
    let rows = block.chunks_exact(row_bytes);
    for (value, row) in out.iter_mut().zip(rows) {
        if let Some(bytes) = row.get(at..).and_then(|b| b.first_chunk()) {
            *value = rule.apply(read(*bytes));
        }
    }
}
