//! Makes records, for tests, simulators and demonstrations.
//!
//! Input: header texts, items, rows of stored integers. Output: the bytes of a `.trf` file of any version. The layout is the
//! one that [`crate::header`] and [`crate::reader`] read; nothing is rounded or scaled here.

use crate::error::{Error, Result};
use crate::header::Version;
use crate::items::{self, ItemPart};

/// A record to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRecord {
    /// End of the record, such as `17/04/19 21:59:24 Z`.
    pub utc_text: String,
    /// The site's offset from UTC, such as `+10:00`.
    pub utc_offset_text: String,
    /// Treatment name, such as `2-2/DIR SCALP`.
    pub field: String,
    /// Machine id, such as `2694`.
    pub machine_id: String,
    /// Total dose in 0.1 MU.
    pub total_dose_tenth_mu: f64,
    /// Layout of the rows.
    pub version: Version,
    /// The columns.
    pub items: Vec<ItemPart>,
    /// The rows.
    pub rows: Vec<NewRow>,
}

/// A row to be written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NewRow {
    /// Unix milliseconds; not written in version 1.
    pub timestamp_ms: i64,
    /// One stored integer per item.
    pub values: Vec<i32>,
}

impl NewRecord {
    /// An Agility record of `version` without rows: all items that such a record has, in their usual order.
    pub fn agility(version: Version) -> Self {
        NewRecord {
            utc_text: "20/01/31 07:00:00 Z".to_owned(),
            utc_offset_text: "+01:00".to_owned(),
            field: "1-1/QA".to_owned(),
            machine_id: "1234".to_owned(),
            total_dose_tenth_mu: 0.0,
            version,
            items: agility_items(version),
            rows: Vec::new(),
        }
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`Error::Misuse`] if a row has another number of values than there are items, or a value does not fit 16 bits in
    /// versions 1 to 3.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for text in [&self.utc_text, &self.utc_offset_text, &self.field, &self.machine_id] {
            push_string(&mut out, text);
        }
        out.extend_from_slice(&self.total_dose_tenth_mu.to_le_bytes());
        out.extend_from_slice(&self.version.number().to_le_bytes());
        let n_items = i32::try_from(self.items.len()).map_err(|_| Error::misuse("too many items"))?;
        out.extend_from_slice(&n_items.to_le_bytes());
        for ItemPart { item, part } in &self.items {
            out.extend_from_slice(&item.to_le_bytes());
            out.extend_from_slice(&part.to_le_bytes());
        }
        self.rows.iter().try_for_each(|row| self.push_row(&mut out, row))?;
        Ok(out)
    }

    fn push_row(&self, out: &mut Vec<u8>, row: &NewRow) -> Result<()> {
        if row.values.len() != self.items.len() {
            let (values, items) = (row.values.len(), self.items.len());
            return Err(Error::misuse(format!("a row has {values} values for {items} items")));
        }
        if self.version.has_timestamps() {
            out.extend_from_slice(&row.timestamp_ms.to_le_bytes());
        }
        for value in &row.values {
            if self.version == Version::V4 {
                out.extend_from_slice(&value.to_le_bytes());
            } else {
                let value = i16::try_from(*value)
                    .map_err(|_| Error::misuse(format!("{value} does not fit a 16-bit row")))?;
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }
}

/// The length in groups of seven bits, low group first, and the text.
fn push_string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    while rest >= 0x80 {
        out.push(low_group(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_group(rest));
    out.extend_from_slice(text.as_bytes());
}

#[expect(clippy::cast_possible_truncation, reason = "masked to seven bits")]
fn low_group(length: usize) -> u8 {
    (length & 0x7f) as u8
}

/// The items of an Agility record, in the order of all real records; version 4 has the MLC status at its end.
pub fn agility_items(version: Version) -> Vec<ItemPart> {
    let pair = |item| [ItemPart::new(item, 129), ItemPart::new(item, 220)];
    let twice = |a, b, part| [ItemPart::new(a, part), ItemPart::new(b, part)];
    let leaves = 0..items::N_LEAF_PAIRS;
    let mut list = vec![
        items::CONTROL_POINT,
        items::ENERGY,
        items::LINAC_STATE,
        items::DOSE_RATE,
        items::STEP_DOSE,
        items::DOSE_RAW,
        items::PRF_PAUSES,
        items::WEDGE,
    ];
    list.extend((2224..=2229).flat_map(pair));
    list.extend(twice(2060, 2061, 129));
    list.extend(twice(2060, 2061, 220));
    list.extend(twice(2064, 2065, 129));
    list.extend(twice(2064, 2065, 220));
    list.extend(twice(2420, 2500, 227));
    list.extend(leaves.clone().filter_map(items::y2_leaf));
    list.extend(leaves.clone().filter_map(items::y1_leaf));
    list.extend(leaves.clone().filter_map(items::y2_leaf_error));
    list.extend(leaves.filter_map(items::y1_leaf_error));
    if version == Version::V4 {
        list.push(items::MLC_STATUS);
    }
    list
}
