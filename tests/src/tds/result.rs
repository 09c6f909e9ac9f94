//! Answers: columns, rows, errors, ends (MS-TDS §2.2.7).

use chrono::{NaiveDate, NaiveDateTime, Timelike};
use rusqlite::types::Value;

use super::wire::{b_varchar, us_varchar, utf16};

/// Latin1_General_CI_AS.
pub(super) const COLLATION: [u8; 5] = [0x09, 0x04, 0xD0, 0x00, 0x34];
const COLMETADATA: u8 = 0x81;
const ROW: u8 = 0xD1;
const ERROR: u8 = 0xAA;
const DONE: u8 = 0xFD;
const DONEPROC: u8 = 0xFE;
const DONEINPROC: u8 = 0xFF;
const RETURNSTATUS: u8 = 0x79;
const NULLABLE: [u8; 2] = [1, 0];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    BigInt,
    Bit,
    Float,
    Decimal { precision: u8, scale: u8 },
    DateTime,
    Text,
    Bytes,
}

impl Kind {
    /// From a column's declared type.
    pub(super) fn declared(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let (word, rest) = name.split_once('(').unwrap_or((&name, ""));
        Some(match word.trim() {
            "int" | "smallint" | "tinyint" => Self::Int,
            "bigint" | "integer" => Self::BigInt,
            "bit" => Self::Bit,
            "float" | "real" => Self::Float,
            "decimal" | "numeric" => {
                let mut digits = rest.trim_end_matches(')').split(',').map(|n| n.trim().parse().ok());
                Self::Decimal {
                    precision: digits.next().flatten().unwrap_or(18),
                    scale: digits.next().flatten().unwrap_or(0),
                }
            }
            "datetime" => Self::DateTime,
            "varbinary" | "binary" | "blob" => Self::Bytes,
            "nvarchar" | "varchar" | "nchar" | "char" | "text" => Self::Text,
            _ => return None,
        })
    }

    /// Of an expression, from its values.
    pub(super) fn of_values<'a>(values: impl Iterator<Item = &'a Value>) -> Self {
        let kinds = values.filter_map(|value| match value {
            Value::Null => None,
            Value::Integer(n) if i32::try_from(*n).is_ok() => Some(Self::Int),
            Value::Integer(_) => Some(Self::BigInt),
            Value::Real(_) => Some(Self::Float),
            Value::Text(text) if time(text).is_some() => Some(Self::DateTime),
            Value::Text(_) => Some(Self::Text),
            Value::Blob(_) => Some(Self::Bytes),
        });
        kinds.reduce(|a, b| if a == Self::Int { b } else { a }).unwrap_or(Self::Int)
    }

    fn type_info(self) -> Vec<u8> {
        match self {
            Self::Int => vec![0x26, 4],
            Self::BigInt => vec![0x26, 8],
            Self::Bit => vec![0x68, 1],
            Self::Float => vec![0x6D, 8],
            Self::Decimal { precision, scale } => vec![0x6C, 17, precision, scale],
            Self::DateTime => vec![0x6F, 8],
            Self::Text => [&[0xE7, 0x40, 0x1F][..], &COLLATION].concat(),
            Self::Bytes => vec![0xA5, 0x40, 0x1F],
        }
    }

    fn encode(self, value: &Value) -> Vec<u8> {
        let short = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat();
        let long = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
        match (self, value) {
            (Self::Text | Self::Bytes, Value::Null) => vec![0xFF, 0xFF],
            (_, Value::Null) => vec![0],
            (Self::Int, value) => short(&i32::try_from(whole(value)).unwrap().to_le_bytes()),
            (Self::BigInt, value) => short(&whole(value).to_le_bytes()),
            (Self::Bit, value) => short(&[u8::from(whole(value) != 0)]),
            (Self::Float, value) => short(&number(value).to_le_bytes()),
            (Self::Decimal { scale, .. }, value) => {
                let steps = (number(value) * 10_f64.powi(scale.into())).round();
                let sign = u8::from(steps >= 0.0);
                short(&[&[sign][..], &(steps.abs() as u128).to_le_bytes()].concat())
            }
            (Self::DateTime, Value::Text(text)) => {
                let time = time(text).unwrap_or_else(|| panic!("{text:?} is no time"));
                let day_1900 = NaiveDate::from_ymd_opt(1900, 1, 1).unwrap();
                let days = i32::try_from((time.date() - day_1900).num_days()).unwrap();
                let nanoseconds = u64::from(time.num_seconds_from_midnight()) * 1_000_000_000
                    + u64::from(time.nanosecond());
                // As the server rounds: to the nearest of 300 ticks in a second.
                let ticks = u32::try_from((nanoseconds * 3 + 5_000_000) / 10_000_000).unwrap();
                short(&[days.to_le_bytes(), ticks.to_le_bytes()].concat())
            }
            (Self::Text, Value::Text(text)) => long(&utf16(text)),
            (Self::Text, Value::Integer(n)) => long(&utf16(&n.to_string())),
            (Self::Bytes, Value::Blob(bytes)) => long(bytes),
            (kind, value) => panic!("{value:?} in a column of {kind:?}"),
        }
    }
}

fn whole(value: &Value) -> i64 {
    match value {
        Value::Integer(n) => *n,
        other => panic!("{other:?} in a column of whole numbers"),
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Integer(n) => *n as f64,
        Value::Real(x) => *x,
        other => panic!("{other:?} in a column of numbers"),
    }
}

/// A time as tables and statements have it.
pub(super) fn time(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim().trim_end_matches('Z').replace('T', " ");
    NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(&format!("{text} 00:00:00"), "%Y-%m-%d %H:%M:%S"))
        .ok()
}

/// A table.
pub(super) fn table(columns: &[(String, Kind)], rows: &[Vec<Value>]) -> Vec<u8> {
    let mut bytes = vec![COLMETADATA];
    bytes.extend(u16::try_from(columns.len()).unwrap().to_le_bytes());
    for (name, kind) in columns {
        bytes.extend([0; 4]);
        bytes.extend(NULLABLE);
        bytes.extend(kind.type_info());
        bytes.extend(b_varchar(name));
    }
    for row in rows {
        bytes.push(ROW);
        bytes.extend(row.iter().zip(columns).flat_map(|(value, (_, kind))| kind.encode(value)));
    }
    bytes
}

/// An error.
pub(super) fn error(number: u32, severity: u8, what: &str) -> Vec<u8> {
    let body = [
        number.to_le_bytes().to_vec(),
        vec![1, severity],
        us_varchar(what),
        b_varchar("MOSAIQ-TEST"),
        b_varchar(""),
        1_u32.to_le_bytes().to_vec(),
    ]
    .concat();
    [vec![ERROR], u16::try_from(body.len()).unwrap().to_le_bytes().to_vec(), body].concat()
}

/// The end of an answer, after a call or a batch.
pub(super) fn done(is_error: bool, n_rows: usize, is_call: bool) -> Vec<u8> {
    // DONE_COUNT with rows, DONE_ERROR with errors.
    let status = if is_error { 0x02_u16 } else { 0x10 };
    let end = |token: u8, status: u16| {
        [vec![token], status.to_le_bytes().to_vec(), vec![0xC1, 0], (n_rows as u64).to_le_bytes().to_vec()]
            .concat()
    };
    if is_call {
        let status_of_call = [vec![RETURNSTATUS], u32::from(is_error).to_le_bytes().to_vec()].concat();
        // DONE_MORE: the end of the call follows.
        [end(DONEINPROC, status | 1), status_of_call, end(DONEPROC, if is_error { 2 } else { 0 })].concat()
    } else {
        end(DONE, status)
    }
}

/// The answer to an attention signal.
pub(super) fn attention() -> Vec<u8> {
    [vec![DONE], 0x20_u16.to_le_bytes().to_vec(), vec![0, 0], vec![0; 8]].concat()
}
