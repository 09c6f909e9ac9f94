//! The T-SQL that clients of Mosaiq send, run by SQLite.

use chrono::{NaiveDateTime, TimeDelta, Utc};
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;
use rusqlite::{Connection, Error, ToSql};

use super::result::{self, Kind};
use super::{Options, Parameter};

/// How SQLite keeps a time.
const TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";
/// Statements that only set up the session.
const SESSION: [&str; 8] = ["set", "use", "begin", "commit", "rollback", "if", "save", "declare"];

/// Gives SQLite the functions of T-SQL that are used.
pub(super) fn register(rows: &Connection, options: &Options) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8;
    let zone = options.time_zone;
    let database = options.database.clone();
    let user = options.login.user.clone();
    let denied: Vec<String> = options.denied.iter().map(|table| table.to_lowercase()).collect();
    rows.create_scalar_function("tsql_version", 0, flags, |_| {
        Ok("Microsoft SQL Server 2019 (RTM) - 15.0.2000.5 (X64)\n\tTest server".to_owned())
    })?;
    rows.create_scalar_function("serverproperty", 1, flags, |arguments| {
        Ok(match arguments.get::<String>(0)?.as_str() {
            "ProductVersion" => Some("15.0.2000.5"),
            "Edition" => Some("Test Edition"),
            "ServerName" => Some("MOSAIQ-TEST"),
            _ => None,
        })
    })?;
    rows.create_scalar_function("db_name", 0, flags, move |_| Ok(database.clone()))?;
    rows.create_scalar_function("suser_sname", 0, flags, move |_| Ok(user.clone()))?;
    rows.create_scalar_function("getutcdate", 0, flags, |_| {
        Ok(Utc::now().naive_utc().format(TIME).to_string())
    })?;
    rows.create_scalar_function("getdate", 0, flags, move |_| {
        Ok(Utc::now().with_timezone(&zone).naive_local().format(TIME).to_string())
    })?;
    rows.create_scalar_function("has_perms_by_name", 3, flags, move |arguments| {
        let table = arguments.get::<Option<String>>(0)?.unwrap_or_default().to_lowercase();
        let permission = arguments.get::<String>(2)?;
        let may = permission.eq_ignore_ascii_case("SELECT") && !denied.contains(&table);
        Ok(i64::from(may))
    })?;
    rows.create_scalar_function("tsql_datetime", 1, flags, |arguments| {
        let text = arguments.get::<Option<String>>(0)?;
        text.map(|text| Ok(parse(&text)?.format(TIME).to_string())).transpose()
    })?;
    rows.create_scalar_function("dateadd", 3, flags, |arguments| {
        let (unit, n) = (arguments.get::<String>(0)?, arguments.get::<i64>(1)?);
        let step = match unit.as_str() {
            "second" => TimeDelta::try_seconds(n),
            "minute" => TimeDelta::try_minutes(n),
            "hour" => TimeDelta::try_hours(n),
            "day" => TimeDelta::try_days(n),
            _ => None,
        };
        let moved = parse(&arguments.get::<String>(2)?)?.checked_add_signed(step.ok_or(Error::InvalidQuery)?);
        Ok(moved.ok_or(Error::InvalidQuery)?.format(TIME).to_string())
    })
}

fn parse(text: &str) -> rusqlite::Result<NaiveDateTime> {
    result::time(text).ok_or(Error::InvalidQuery)
}

/// The answer to a statement.
pub(super) fn run(
    rows: &Connection,
    sql: &str,
    parameters: &[(String, Parameter)],
    is_call: bool,
    options: &Options,
) -> Vec<u8> {
    let first = sql.split_whitespace().next().unwrap_or_default().to_lowercase();
    if first.is_empty() || SESSION.contains(&first.as_str()) {
        return result::done(false, 0, is_call);
    }
    let refused =
        |number, what: String| [result::error(number, 16, &what), result::done(true, 0, is_call)].concat();
    let words: Vec<String> =
        sql.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_lowercase).collect();
    if let Some(table) = options.denied.iter().find(|table| words.contains(&table.to_lowercase())) {
        return refused(
            229,
            format!(
                "The SELECT permission was denied on the object '{table}', database '{}', schema 'dbo'.",
                options.database
            ),
        );
    }
    match select(rows, sql, parameters) {
        Ok((columns, found)) => {
            [result::table(&columns, &found), result::done(false, found.len(), is_call)].concat()
        }
        Err(error) => {
            let text = error.to_string();
            let named = |what: &str| {
                let name = text.split_once(what)?.1.split_whitespace().next()?;
                Some(name.rsplit('.').next().unwrap_or(name).to_owned())
            };
            if let Some(table) = named("no such table: ") {
                refused(208, format!("Invalid object name '{table}'."))
            } else if let Some(column) = named("no such column: ") {
                refused(207, format!("Invalid column name '{column}'."))
            } else {
                refused(102, format!("Incorrect syntax: {text}"))
            }
        }
    }
}

type Table = (Vec<(String, Kind)>, Vec<Vec<Value>>);

fn select(rows: &Connection, sql: &str, parameters: &[(String, Parameter)]) -> rusqlite::Result<Table> {
    let mut statement = rows.prepare(&rewrite(sql))?;
    if !statement.readonly() {
        return Err(Error::InvalidQuery);
    }
    for (name, value) in parameters {
        // A parameter that the statement does not use is none of SQLite's.
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, bound(value))?;
        }
    }
    let declared: Vec<(String, Option<Kind>)> = statement
        .columns()
        .map(|column| (column.name().to_owned(), column.decl_type().and_then(Kind::declared)))
        .collect();
    let mut found = Vec::new();
    let mut answers = statement.raw_query();
    while let Some(row) = answers.next()? {
        found
            .push((0..declared.len()).map(|n| row.get::<_, Value>(n)).collect::<rusqlite::Result<Vec<_>>>()?);
    }
    let columns = declared.into_iter().enumerate().map(|(n, (name, kind))| {
        let kind = kind.unwrap_or_else(|| Kind::of_values(found.iter().filter_map(|row| row.get(n))));
        (name, kind)
    });
    Ok((columns.collect(), found))
}

fn bound(parameter: &Parameter) -> Box<dyn ToSql> {
    match parameter {
        Parameter::Null => Box::new(rusqlite::types::Null),
        Parameter::Integer(n) => Box::new(*n),
        Parameter::Float(x) => Box::new(*x),
        Parameter::Text(text) => Box::new(text.clone()),
        Parameter::Bytes(bytes) => Box::new(bytes.clone()),
        Parameter::Time(time) => Box::new(time.format(TIME).to_string()),
    }
}

/// T-SQL as SQLite reads it: N'…', TOP, CAST … AS datetime, DATEADD's unit, dbo., @@VERSION, ISNULL.
fn rewrite(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    let mut limit = None;
    // Where each open bracket's function name begins in the output; `None` if it is no CAST.
    let mut casts: Vec<Option<usize>> = Vec::new();
    let mut last_word: Option<(usize, String)> = None;
    while let Some(c) = rest.chars().next() {
        let word_end = rest.find(|c: char| !(c.is_alphanumeric() || "_@#".contains(c))).unwrap_or(rest.len());
        if c == '\'' {
            let end = end_of_text(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            last_word = None;
        } else if word_end > 0 {
            let (word, after) = rest.split_at(word_end);
            let lower = word.to_lowercase();
            rest = after;
            match lower.as_str() {
                "n" if rest.starts_with('\'') => {}
                "dbo" if rest.starts_with('.') => rest = &rest[1..],
                "@@version" => out.push_str("tsql_version()"),
                "isnull" => out.push_str("ifnull"),
                "top" => {
                    let trimmed = rest.trim_start_matches([' ', '(']);
                    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
                    limit = Some(trimmed[..end].to_owned());
                    rest = trimmed[end..].trim_start_matches(')');
                }
                "as" if casts.last().is_some_and(Option::is_some) && is_time_type(rest) => {
                    let start = casts.last().copied().flatten().unwrap_or_default();
                    out.replace_range(start..start + "cast".len(), "tsql_datetime");
                    let close = rest.find(')').unwrap_or(rest.len());
                    // datetime2(7) has brackets of its own.
                    let inner = rest[..close].contains('(');
                    rest = &rest[close + usize::from(inner)..];
                }
                "second" | "minute" | "hour" | "day"
                    if out.trim_end().to_lowercase().ends_with("dateadd(") =>
                {
                    out.push_str(&format!("'{lower}'"));
                }
                _ => {
                    last_word = Some((out.len(), lower));
                    out.push_str(word);
                    continue;
                }
            }
            last_word = None;
        } else {
            match c {
                '(' => {
                    casts.push(last_word.take().filter(|(_, word)| word == "cast").map(|(start, _)| start))
                }
                ')' => drop(casts.pop()),
                _ => {}
            }
            out.push(c);
            rest = &rest[c.len_utf8()..];
            if !c.is_whitespace() {
                last_word = None;
            }
        }
    }
    if let Some(limit) = limit {
        out.push_str(&format!(" LIMIT {limit}"));
    }
    out
}

fn is_time_type(rest: &str) -> bool {
    rest.trim_start().to_lowercase().starts_with("datetime")
}

/// Length of a text in quotes, doubled quotes inside.
fn end_of_text(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn t_sql_becomes_what_sqlite_reads() {
        let cases = [
            ("SELECT N'it''s N''x' FROM dbo.Staff", "SELECT 'it''s N''x' FROM Staff"),
            ("SELECT TOP 5 a FROM t", "SELECT  a FROM t LIMIT 5"),
            ("a >= CAST(@P1 AS datetime) AND b", "a >= tsql_datetime(@P1 ) AND b"),
            ("CAST(f(x) AS datetime2(7)), CAST(x AS int)", "tsql_datetime(f(x) ), CAST(x AS int)"),
            ("DATEADD(second, -240, '2020-01-01')", "DATEADD('second', -240, '2020-01-01')"),
            ("SELECT @@VERSION, ISNULL(a, 0) AS second", "SELECT tsql_version(), ifnull(a, 0) AS second"),
        ];
        for (sql, expected) in cases {
            assert_eq!(rewrite(sql), expected);
        }
    }
}
