//! `config show|check|init|import`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use super::Printer;
use crate::error::{Error, Result};
use crate::settings::import::{self, Fate, Key};
use crate::settings::{Origin, Resolved, Settings, system_file, wrong};

/// Shows, checks or writes the settings.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Prints every setting in force and where it came from.
    Show,
    /// Says what is wrong with the settings; exits 1 if anything is.
    Check,
    /// Writes a settings file with all defaults, ready to edit.
    Init {
        /// Where to; else what --config names, else the system's place.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Overwrites a file that is there.
        #[arg(long)]
        force: bool,
    },
    /// Writes a settings file from PyMedPhys's config.toml, and says what became of each of its keys.
    Import {
        /// PyMedPhys's configuration, such as ~/.pymedphys/config.toml; what it redirects to is read.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Where to; else the settings are printed.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Overwrites a file that is there.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(args: &Args, file: Option<&Path>, set: &[String], printer: Printer) -> Result<ExitCode> {
    match &args.action {
        Action::Show => show(&Settings::load(file, set)?, printer),
        Action::Check => check(&Settings::load(file, set)?, printer),
        Action::Init { .. } if !set.is_empty() => Err(Error::Misuse {
            what: "`config init` writes the defaults, so --set changes nothing there".into(),
            hint: "leave --set out, and edit the file that is written".into(),
        }),
        Action::Init { output, force } => init(output.as_deref().or(file), *force, printer),
        Action::Import { file, output, force } => from_pymedphys(file, output.as_deref(), *force, printer),
    }
}

fn show(resolved: &Resolved, printer: Printer) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let value = toml::Value::try_from(&resolved.settings)
        .map_err(|e| Error::Settings { key: "settings".into(), what: e.to_string() })?;
    flatten("", &value, &mut rows);
    let origin = |key: &str| resolved.origins.get(key).unwrap_or(&Origin::Default).to_string();
    if printer.is_json() {
        let map: serde_json::Map<_, _> = rows
            .iter()
            .map(|(key, value)| (key.clone(), serde_json::json!({"value": value, "origin": origin(key)})))
            .collect();
        printer.json(&map);
    }
    let rows: Vec<_> =
        rows.iter().map(|(key, value)| [key.clone(), value.to_string(), origin(key)]).collect();
    printer.table(["setting", "value", "from"], &rows);
    Ok(ExitCode::SUCCESS)
}

fn flatten(prefix: &str, value: &toml::Value, rows: &mut Vec<(String, toml::Value)>) {
    let joined = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(k, v)| flatten(&joined(k), v, rows)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(n, v)| flatten(&joined(&n.to_string()), v, rows));
        }
        _ => rows.push((prefix.to_owned(), value.clone())),
    }
}

fn check(resolved: &Resolved, printer: Printer) -> Result<ExitCode> {
    let mut warnings = Vec::new();
    let root = &resolved.settings.images.root;
    if resolved.settings.archives.is_empty() {
        warnings.push("no [[archive]] is set: images can be received, but not asked for".to_owned());
    }
    if is_on_a_share(root) {
        warnings.push(
            "images.root is on a share, where the catalog is not safe: choose a disk of this machine".into(),
        );
    }
    // Nothing is made here: who checks is not always who the service runs as.
    match root.metadata() {
        Ok(there) if there.is_dir() => {
            let probe = root.join(format!("_probe-{}", std::process::id()));
            std::fs::write(&probe, b"")
                .and_then(|()| std::fs::remove_file(&probe))
                .map_err(Error::io(&probe))?;
        }
        Ok(_) => return Err(wrong("images.root", format!("{} is no directory", root.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            warnings.push(format!(
                "{} does not exist yet: the service makes it at its first start",
                root.display()
            ));
        }
        Err(error) => return Err(Error::io(root)(error)),
    }
    for warning in &warnings {
        printer.note(format!("warning: {warning}"));
    }
    let none = || format!("built-in defaults: there is no {}", system_file().display());
    let file = resolved.file.as_ref().map_or_else(none, |f| f.display().to_string());
    printer.line(format!("settings are in order ({file})"));
    printer.json(&serde_json::json!({"file": file, "warnings": warnings}));
    Ok(ExitCode::SUCCESS)
}

/// Whether a Windows path names another machine. Source for what that means: sqlite.org/wal.html, "WAL does not work over a network
/// filesystem".
fn is_on_a_share(path: &Path) -> bool {
    use std::path::{Component, Prefix};
    let Some(Component::Prefix(prefix)) = path.components().next() else { return false };
    matches!(prefix.kind(), Prefix::UNC(..) | Prefix::VerbatimUNC(..))
}

/// The settings, then what became of each key; the settings alone on stdout, so that they can be piped.
fn from_pymedphys(file: &Path, output: Option<&Path>, force: bool, printer: Printer) -> Result<ExitCode> {
    let imported = import::import(file, cfg!(windows))?;
    match output {
        Some(path) => {
            write_new(path, &imported.settings, force)?;
            printer.line(format!("wrote {}", path.display()));
        }
        None => printer.line(imported.settings.trim_end()),
    }
    printer.json(&imported);
    printer.note(format!("from {}:", imported.file.display()));
    for Key { key, fate } in &imported.keys {
        printer.note(match fate {
            Fate::Becomes(ours) => format!("  {key} is {ours}"),
            Fate::NotNeeded(why) => format!("  {key} is not needed: {why}"),
            Fate::Unknown => format!("  warning: {key} is not a key of PyMedPhys 0.41; look at it"),
        });
    }
    for to_do in &imported.to_do {
        printer.note(format!("to do: {to_do}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn write_new(path: &Path, text: &str, force: bool) -> Result<()> {
    if path.exists() && !force {
        return Err(Error::Misuse {
            what: format!("{} is there already", path.display()),
            hint: "edit it, name another path, or add --force to overwrite it".into(),
        });
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    std::fs::write(path, text).map_err(Error::io(path))
}

fn init(path: Option<&Path>, force: bool, printer: Printer) -> Result<ExitCode> {
    let path = path.map_or_else(system_file, Path::to_path_buf);
    let defaults = toml::to_string(&Settings::default())
        .map_err(|e| Error::Settings { key: "settings".into(), what: e.to_string() })?;
    // Commented out, so that a later version's better default is not pinned by an untouched line.
    let commented: String = defaults
        .lines()
        .map(|l| if l.is_empty() || l.starts_with('[') { format!("{l}\n") } else { format!("# {l}\n") })
        .collect();
    let text = format!("{HEADER}\n{commented}{ARCHIVE}");
    write_new(&path, &text, force)?;
    printer.line(format!("wrote {}", path.display()));
    printer.json(&serde_json::json!({"file": path}));
    Ok(ExitCode::SUCCESS)
}

const HEADER: &str =
    "# Settings of scp-node. Lines that start with # show the defaults; remove the # to change one.
# `scp-node config check` explains what is wrong, `scp-node config show` prints what is in force.
";

const ARCHIVE: &str = "
# The archive to ask. In Aria: DB Service's AE title, host and port (51402 by custom).
# [[archive]]
# name = \"aria\"
# ae_title = \"ARIA_DB\"
# host = \"aria.hospital.example\"
# port = 51402
# strategy = \"auto\"            # or \"relational\" (Aria), \"hierarchical\"
# fresh_for_s = 30.0            # an answer is not asked for again so soon; `fetch --refresh` asks all the same
# connect_timeout_s = 5.0
# response_timeout_s = 60.0
# associations = 2              # at once, to ask about several series side by side
";
