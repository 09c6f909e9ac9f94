//! The one place that writes to standard output and error.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use crate::error::Error;

/// Why a result could not be written; the first of them.
static LOST: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints results to stdout and everything else to stderr.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// A printer of JSON or of text.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether scripts read the output.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person watches: progress is shown only then.
    pub fn is_watched(self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// One line of text on stdout; silent with `--json`.
    pub fn line(self, text: impl AsRef<str>) {
        if !self.json {
            put(text.as_ref());
        }
    }

    /// One JSON value on stdout; silent without `--json`.
    pub fn json(self, value: &impl serde::Serialize) {
        if self.json {
            let text =
                serde_json::to_string_pretty(value).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"));
            put(&text);
        }
    }

    /// The error that a result was not written in full, as on a full disk; whoever closed a pipe wanted no more.
    pub(super) fn lost(self) -> Option<Error> {
        let source = LOST.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Error::Io { path: "standard output".into(), source })
    }

    /// A remark for people, on stderr.
    pub fn note(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr(), "{}", tame(text.as_ref()));
    }

    /// An error: one line, its hint on the next; with `--json` an object on stdout as well, which names all that is missing.
    pub fn error(self, error: &Error) {
        let mut object =
            serde_json::json!({"error": error.to_string(), "kind": error.kind(), "hint": error.hint()});
        if let Some(object) = object.as_object_mut() {
            if !error.missing().is_empty() {
                object.insert("missing".into(), error.missing().into());
            }
            if let Some(comment) = error.comment() {
                object.insert("comment".into(), comment.into());
            }
        }
        self.json(&object);
        self.note(format!("error: {error}"));
        if let Some(comment) = error.comment() {
            self.note(format!("the archive remarks: {}", comment.escape_debug()));
        }
        let hint = error.hint();
        if !hint.is_empty() {
            self.note(format!("hint: {hint}"));
        }
    }

    /// Wrong usage, as clap tells it on several lines: one line, and a hint.
    pub(super) fn usage(self, error: &clap::Error) {
        let text = error.render().to_string();
        let mut lines = text.lines().map(str::trim);
        // What is missing or possible stands on lines of its own, up to an empty one.
        let said: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let said = said.join(" ");
        let what = said.strip_prefix("error: ").unwrap_or(&said);
        let rest: Vec<&str> = lines.collect();
        let tips = rest.iter().filter_map(|line| line.strip_prefix("tip: ")).map(ToOwned::to_owned);
        let usage = rest.iter().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("scp-node");
        let command: Vec<&str> = usage.split(' ').take_while(|w| !w.starts_with(['-', '<', '['])).collect();
        let help = format!("`{} --help` says what it takes", command.join(" "));
        let hint = tips.chain([help]).collect::<Vec<_>>().join("; ");
        self.json(&serde_json::json!({"error": what, "kind": "usage", "hint": hint}));
        self.note(format!("error: {what}"));
        self.note(format!("hint: {hint}"));
    }

    /// A table: a header row, then rows, columns as wide as their widest cell.
    pub fn table<const N: usize>(self, header: [&str; N], rows: &[[String; N]]) {
        let mut widths = header.map(|h| h.chars().count());
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let format = |cells: Vec<&str>| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.line(format(header.to_vec()));
        for row in rows {
            self.line(format(row.iter().map(String::as_str).collect()));
        }
    }
}

fn put(text: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{}", tame(text))
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Text that may come from an archive, without what would command a terminal.
fn tame(text: &str) -> Cow<'_, str> {
    let is_wild = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_wild) {
        return text.into();
    }
    text.chars().flat_map(|c| if is_wild(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_from_an_archive_commands_no_terminal() {
        assert_eq!(tame("WL\u{1b}[2J\u{7}\n\tMüller"), "WL\\u{1b}[2J\\u{7}\n\tMüller");
        assert!(matches!(tame("WL_10MV\n"), Cow::Borrowed(_)));
    }
}
