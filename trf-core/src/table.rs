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
            // Each thread reads all rows, in their order, and writes columns of its own.
            let per_thread = self.n_columns().div_ceil(rayon::current_num_threads()).max(COLUMNS_PER_TILE);
            let shares =
                values.par_chunks_mut(per_thread * self.n_rows()).zip(self.rules().par_chunks(per_thread));
            shares
                .enumerate()
                .for_each(|(n, (values, rules))| self.decode_columns(n * per_thread, rules, values));
        }
    }

    /// Decodes the columns from `first_column` on, as many as there are rules.
    fn decode_columns(&self, first_column: usize, rules: &[Rule], values: &mut [f64]) {
        let version = self.header().version;
        let row_bytes = self.header().row_bytes();
        let mut columns: Vec<_> = values.chunks_exact_mut(self.n_rows()).zip(rules).collect();
        let mut tile: Tile = [[0; ROWS_PER_BLOCK]; COLUMNS_PER_TILE];
        for (block_index, block) in self.rows().chunks(ROWS_PER_BLOCK * row_bytes).enumerate() {
            let first_row = block_index * ROWS_PER_BLOCK;
            let n = block.len() / row_bytes.max(1);
            for (group, columns) in columns.chunks_mut(COLUMNS_PER_TILE).enumerate() {
                let start = version.prefix_bytes()
                    + (first_column + group * COLUMNS_PER_TILE) * version.value_bytes();
                for (at, row) in block.chunks_exact(row_bytes).enumerate() {
                    let values = row.get(start..).unwrap_or_default();
                    match version {
                        Version::V4 => turn(&mut tile, at, values.as_chunks().0, i32::from_le_bytes),
                        _ => turn(&mut tile, at, values.as_chunks().0, |b| i16::from_le_bytes(b).into()),
                    }
                }
                for ((column, rule), raw) in columns.iter_mut().zip(&tile) {
                    if let Some(out) = column.get_mut(first_row..first_row + n) {
                        apply(**rule, raw, out);
                    }
                }
            }
        }
    }
}

/// Few enough that the columns being written, of which each lies in pages of its own, and the tile have room in the nearest caches.
/// Measured: 32 take half as long again.
const COLUMNS_PER_TILE: usize = 16;
/// 256 rows of 350 columns are 180 kB, which stay in the second-level cache while their columns are gone through tile by tile;
/// as a tile they are 16 kB.
const ROWS_PER_BLOCK: usize = 256;
/// A block's integers, column by column.
type Tile = [[i32; ROWS_PER_BLOCK]; COLUMNS_PER_TILE];

/// Writes the row `at` of a block into the tile.
fn turn<const N: usize>(tile: &mut Tile, at: usize, row: &[[u8; N]], read: impl Fn([u8; N]) -> i32) {
    for (column, bytes) in tile.iter_mut().zip(row) {
        if let Some(value) = column.get_mut(at) {
            *value = read(*bytes);
        }
    }
}

/// As [`Rule::apply`], for many values at a time: each loop is of a kind that the processor does on several at once.
fn apply(rule: Rule, raw: &[i32], out: &mut [f64]) {
    let values = out.iter_mut().zip(raw);
    match rule {
        Rule::Raw | Rule::LinacState | Rule::WedgePosition => values.for_each(|(v, x)| *v = f64::from(*x)),
        Rule::Tenths => values.for_each(|(v, x)| *v = tenth(f64::from(*x))),
        Rule::NegatedTenths => values.for_each(|(v, x)| *v = tenth(0.0 - f64::from(*x))),
        Rule::Unsigned16 => values.for_each(|(v, x)| *v = rule.apply(*x)),
    }
}

/// x / 10 to the last bit, for whole numbers of up to 32 bits, in a fraction of a division's time.
///
/// The first 21 bits of 1/10 times x are exact, and the rest of it is known to 2^-74 of the whole. x / 10 is at least a
/// tenth of its last bit away from where rounding turns, so what is added last rounds as the quotient does.
#[inline]
fn tenth(x: f64) -> f64 {
    const FIRST: f64 = f64::from_bits(0x3fb9_9999_0000_0000);
    const REST: f64 = (1.0 - 10.0 * FIRST) / 10.0;
    x * FIRST + x * REST
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_a_tenth(x: i32) -> bool {
        let x = f64::from(x);
        tenth(x).to_bits() == (x / 10.0).to_bits()
    }

    #[test]
    fn tenths_are_quotients_to_the_last_bit_for_all_of_16_bits() {
        assert!((-32_768..=65_535).all(is_a_tenth));
        assert!([i32::MIN, i32::MIN + 1, i32::MAX - 1, i32::MAX].into_iter().all(is_a_tenth));
    }

    proptest! {
        #[test]
        fn tenths_are_quotients_to_the_last_bit(x: i32) {
            prop_assert!(is_a_tenth(x));
        }
    }
}
