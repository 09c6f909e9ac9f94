//! Values out of rows, each checked for its type.

use chrono::{NaiveDateTime, TimeDelta};
use tiberius::{ColumnData, FromSql, Row};

use crate::{Error, Result};

/// A row whose columns are asked for by their place in the SELECT.
pub(super) struct Values<'a> {
    pub(super) row: &'a Row,
    pub(super) peer: &'a str,
}

impl Values<'_> {
    fn data(&self, index: usize) -> Result<&ColumnData<'static>> {
        self.row.get_column_data(index).map_err(|_| self.unexpected(index, "a value"))
    }

    /// What is wrong with a column, by its name and type: never its value.
    fn unexpected(&self, index: usize, expected: &str) -> Error {
        let column = self.row.columns().get(index);
        let name = column.map_or("?", |column| column.name());
        let kind = column.map_or_else(|| "nothing".into(), |column| format!("{:?}", column.column_type()));
        Error::PeerMisbehaved {
            peer: self.peer.to_owned(),
            what: format!("column {name} holds {kind}, expected {expected}"),
        }
    }

    /// Any whole number.
    pub(super) fn maybe_integer(&self, index: usize) -> Result<Option<i64>> {
        match self.data(index)? {
            ColumnData::U8(n) => Ok(n.map(i64::from)),
            ColumnData::I16(n) => Ok(n.map(i64::from)),
            ColumnData::I32(n) => Ok(n.map(i64::from)),
            ColumnData::I64(n) => Ok(*n),
            ColumnData::Bit(bit) => Ok(bit.map(i64::from)),
            _ => Err(self.unexpected(index, "a whole number")),
        }
    }

    pub(super) fn integer(&self, index: usize) -> Result<i64> {
        self.maybe_integer(index)?.ok_or_else(|| self.unexpected(index, "a whole number, not NULL"))
    }

    /// A flag; NULL counts as not set, as PyMedPhys has it.
    pub(super) fn flag(&self, index: usize) -> Result<bool> {
        Ok(self.maybe_integer(index)?.is_some_and(|n| n != 0))
    }

    /// Any number.
    pub(super) fn maybe_number(&self, index: usize) -> Result<Option<f64>> {
        match self.data(index)? {
            ColumnData::F32(x) => Ok(x.map(f64::from)),
            ColumnData::F64(x) => Ok(*x),
            // One division of two exact numbers: the nearest double, as Python's float(Decimal).
            ColumnData::Numeric(x) => Ok(x.map(|x| x.value() as f64 / 10_f64.powi(x.scale().into()))),
            _ => match self.maybe_integer(index) {
                Ok(n) => Ok(n.map(|n| n as f64)),
                Err(_) => Err(self.unexpected(index, "a number")),
            },
        }
    }

    /// Text without spaces at both ends; NULL and nothing but spaces are the same.
    pub(super) fn maybe_text(&self, index: usize) -> Result<Option<String>> {
        match self.data(index)? {
            ColumnData::String(text) => {
                let text = text.as_deref().map(str::trim).filter(|text| !text.is_empty());
                Ok(text.map(str::to_owned))
            }
            _ => Err(self.unexpected(index, "text")),
        }
    }

    pub(super) fn text(&self, index: usize) -> Result<String> {
        Ok(self.maybe_text(index)?.unwrap_or_default())
    }

    /// Bytes; NULL is none.
    pub(super) fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        match self.data(index)? {
            ColumnData::Binary(bytes) => Ok(bytes.as_deref().unwrap_or_default().to_vec()),
            _ => Err(self.unexpected(index, "bytes")),
        }
    }

    /// A time, to the nearest ms: datetime counts in 1/300 s.
    pub(super) fn maybe_time(&self, index: usize) -> Result<Option<NaiveDateTime>> {
        let time =
            NaiveDateTime::from_sql(self.data(index)?).map_err(|_| self.unexpected(index, "a time"))?;
        Ok(time.and_then(to_ms))
    }

    pub(super) fn time(&self, index: usize) -> Result<NaiveDateTime> {
        self.maybe_time(index)?.ok_or_else(|| self.unexpected(index, "a time, not NULL"))
    }
}

/// The nearest ms.
fn to_ms(time: NaiveDateTime) -> Option<NaiveDateTime> {
    let below_ms = i64::from(chrono::Timelike::nanosecond(&time) % 1_000_000);
    let step = if below_ms >= 500_000 { 1_000_000 - below_ms } else { -below_ms };
    time.checked_add_signed(TimeDelta::nanoseconds(step))
}

#[cfg(test)]
mod tests {
    use super::to_ms;
    use chrono::NaiveDate;

    #[test]
    fn ticks_become_the_nearest_ms() {
        let at = |ns| NaiveDate::from_ymd_opt(2026, 3, 29).unwrap().and_hms_nano_opt(23, 59, 59, ns).unwrap();
        assert_eq!(to_ms(at(513_333_333)), Some(at(513_000_000)));
        assert_eq!(to_ms(at(516_666_666)), Some(at(517_000_000)));
        assert_eq!(to_ms(at(999_999_999)).unwrap().to_string(), "2026-03-30 00:00:00");
    }
}
