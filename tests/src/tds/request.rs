//! SQL batches and calls of `sp_executesql` with their parameters (MS-TDS §2.2.6.6, §2.2.6.7).

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};

use super::wire::{ATTENTION, BATCH, CALL, Reader, text};

/// A value that came with a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// NULL.
    Null,
    /// Any whole number, and bit.
    Integer(i64),
    /// float, real.
    Float(f64),
    /// Any text.
    Text(String),
    /// Any bytes.
    Bytes(Vec<u8>),
    /// datetime, datetime2.
    Time(NaiveDateTime),
}

/// What a client wants.
#[derive(Debug)]
pub(super) enum Request {
    Batch { sql: String },
    Call { sql: String, parameters: Vec<(String, Parameter)> },
    Attention,
    Unknown,
}

const SP_EXECUTESQL: u64 = 10;

impl Request {
    pub(super) fn parse(kind: u8, message: &[u8]) -> Option<Self> {
        if kind == ATTENTION {
            return Some(Self::Attention);
        }
        let headers = Reader(message).size(4)?;
        let mut rest = Reader(message.get(headers..)?);
        match kind {
            BATCH => Some(Self::Batch { sql: text(rest.0) }),
            CALL => call(&mut rest),
            _ => None,
        }
    }
}

fn call(rest: &mut Reader<'_>) -> Option<Request> {
    let is_executesql = match rest.size(2)? {
        0xFFFF => rest.unsigned(2)? == SP_EXECUTESQL,
        n => rest.text(n)?.eq_ignore_ascii_case("sp_executesql"),
    };
    if !is_executesql {
        return None;
    }
    rest.bytes(2)?;
    let mut parameters = Vec::new();
    while !rest.0.is_empty() {
        let n = rest.size(1)?;
        let name = rest.text(n)?;
        rest.bytes(1)?;
        parameters.push((name, value(rest)?));
    }
    let mut parameters = parameters.into_iter();
    let Some((_, Parameter::Text(sql))) = parameters.next() else { return None };
    // Next is the declaration of the parameters, if there are any.
    parameters.next();
    Some(Request::Call { sql, parameters: parameters.collect() })
}

/// TYPE_INFO and TYPE_VARBYTE (§2.2.5.2, §2.2.5.4).
fn value(rest: &mut Reader<'_>) -> Option<Parameter> {
    match rest.size(1)? {
        // INTN, BITN
        0x26 | 0x68 => {
            rest.bytes(1)?;
            let n = rest.size(1)?;
            let bytes = rest.bytes(n)?;
            Some(match n {
                0 => Parameter::Null,
                _ => Parameter::Integer(integer(bytes)),
            })
        }
        // FLTN
        0x6D => {
            rest.bytes(1)?;
            let n = rest.size(1)?;
            let bytes = rest.bytes(n)?;
            Some(match n {
                4 => Parameter::Float(f32::from_le_bytes(*bytes.first_chunk()?).into()),
                8 => Parameter::Float(f64::from_le_bytes(*bytes.first_chunk()?)),
                _ => Parameter::Null,
            })
        }
        // BIGVARBIN, NVARCHAR, BIGVARCHAR
        kind @ (0xA5 | 0xE7 | 0xA7) => {
            let longest = rest.size(2)?;
            if kind != 0xA5 {
                rest.bytes(5)?;
            }
            let bytes = if longest == 0xFFFF { in_parts(rest)? } else { in_one(rest)? };
            Some(match (bytes, kind) {
                (None, _) => Parameter::Null,
                (Some(bytes), 0xA5) => Parameter::Bytes(bytes),
                (Some(bytes), 0xE7) => Parameter::Text(text(&bytes)),
                (Some(bytes), _) => Parameter::Text(String::from_utf8_lossy(&bytes).into_owned()),
            })
        }
        // DATETIMN
        0x6F => {
            rest.bytes(1)?;
            match rest.size(1)? {
                8 => {
                    let days = i64::from(i32::from_le_bytes(*rest.bytes(4)?.first_chunk()?));
                    let ticks = i64::from(u32::from_le_bytes(*rest.bytes(4)?.first_chunk()?));
                    Some(Parameter::Time(moment(1900, days, ticks * 10_000_000 / 3)?))
                }
                _ => Some(Parameter::Null),
            }
        }
        // DATETIME2N
        0x2A => {
            let scale = u32::try_from(rest.size(1)?).ok()?;
            match rest.size(1)? {
                0 => Some(Parameter::Null),
                n => {
                    let steps = i64::try_from(rest.unsigned(n.checked_sub(3)?)?).ok()?;
                    let days = i64::try_from(rest.unsigned(3)?).ok()?;
                    let nanoseconds = steps.checked_mul(10_i64.checked_pow(9_u32.checked_sub(scale)?)?)?;
                    Some(Parameter::Time(moment(1, days, nanoseconds)?))
                }
            }
        }
        // NULL
        0x1F => Some(Parameter::Null),
        _ => None,
    }
}

fn integer(bytes: &[u8]) -> i64 {
    let value = bytes.iter().rev().fold(0_i64, |value, &byte| value << 8 | i64::from(byte));
    // tinyint and bit have no sign.
    match bytes.len() {
        2 => i64::from(value as i16),
        4 => i64::from(value as i32),
        _ => value,
    }
}

fn in_one(rest: &mut Reader<'_>) -> Option<Option<Vec<u8>>> {
    match rest.size(2)? {
        0xFFFF => Some(None),
        n => Some(Some(rest.bytes(n)?.to_vec())),
    }
}

/// Partially length-prefixed (§2.2.5.2.3).
fn in_parts(rest: &mut Reader<'_>) -> Option<Option<Vec<u8>>> {
    if rest.unsigned(8)? == u64::MAX {
        return Some(None);
    }
    let mut bytes = Vec::new();
    loop {
        match rest.size(4)? {
            0 => return Some(Some(bytes)),
            n => bytes.extend(rest.bytes(n)?),
        }
    }
}

fn moment(year: i32, days: i64, nanoseconds: i64) -> Option<NaiveDateTime> {
    let day = NaiveDate::from_ymd_opt(year, 1, 1)?.checked_add_signed(TimeDelta::try_days(days)?)?;
    day.and_hms_opt(0, 0, 0)?.checked_add_signed(TimeDelta::nanoseconds(nanoseconds))
}
