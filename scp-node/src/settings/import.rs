//! PyMedPhys's configuration, read as settings of ours: what each of its keys becomes, or why it is not needed.
//!
//! Input: `config.toml` of PyMedPhys 0.3x to 0.41, or the older `config.json` with `machine_map` and `centres`; `redirect` is followed. Output:
//! [`Imported`]: a settings file as text, and what became of each key. Trust: the file is the admin's; nothing in it is run or
//! opened but what `redirect` names. Source: PyMedPhys 0.41.0's code and examples; the older schema, its repository's history.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use super::wrong;
use crate::error::{Error, Result};

/// More redirects than this are a circle.
const MAX_REDIRECTS: usize = 16;

/// A configuration of PyMedPhys as settings of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// The file that was read last, after all redirects.
    pub file: PathBuf,
    /// The settings file.
    pub settings: String,
    /// What became of each key, once, by section.
    pub keys: Vec<Key>,
    /// What a person has to do before it works.
    pub to_do: Vec<String>,
}

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Dotted, without the numbers of list entries.
    pub key: String,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is this setting of ours.
    Becomes(&'static str),
    /// Nothing here needs it, and why.
    NotNeeded(&'static str),
    /// PyMedPhys 0.41 does not know it either.
    Unknown,
}

const MONACO: &str = "Monaco's own files are not read; plans come from DICOM";
const IVIEW: &str = "the iView database is not read; images come by DICOM";
const ICOM_PATHS: &str = "records are kept below icom.dir; PyMedPhys's stay where they are, and `icom info` and `replay` read them";
const GAMMA: &str = "an option of `trf check` and of qatrack_ext.check_delivery, not of the site";
const GUI: &str = "belongs to PyMedPhys's web pages";

/// Keys and their fates; one that ends in `.` stands for everything below it. First match counts.
const FATES: &[(&str, Fate)] = &[
    ("version", Fate::NotNeeded("the version of PyMedPhys's schema")),
    ("redirect", Fate::NotNeeded("it was followed; the settings are one file")),
    ("cli.logging.level", Fate::Becomes("log.level")),
    ("cli.logging.", Fate::NotNeeded("lines of the log have one form; log.json gives JSON")),
    ("data_methods.", Fate::NotNeeded(GUI)),
    ("output.", Fate::NotNeeded("`trf check --png` says where a page goes")),
    ("gamma.", Fate::NotNeeded(GAMMA)),
    ("site.name", Fate::Becomes("site.name")),
    (
        "site.export-directories.icom_live",
        Fate::NotNeeded("the live state is below icom.dir; PyMedPhys's form of it: icom.pymedphys_live"),
    ),
    ("site.export-directories.icom", Fate::NotNeeded(ICOM_PATHS)),
    ("site.export-directories.iviewdb", Fate::NotNeeded(IVIEW)),
    (
        "site.export-directories.escan",
        Fate::NotNeeded("scans for electron inserts are no matter of this program"),
    ),
    ("site.export-directories.", Fate::NotNeeded(MONACO)),
    ("site.monaco.", Fate::NotNeeded(MONACO)),
    ("site.mosaiq.timezone", Fate::Becomes("site.mosaiq.time_zone")),
    ("site.mosaiq.hostname", Fate::Becomes("site.mosaiq.host")),
    ("site.mosaiq.port", Fate::Becomes("site.mosaiq.port")),
    ("site.mosaiq.alias", Fate::NotNeeded("a name for PyMedPhys's log-in window")),
    ("site.mosaiq.physics_qcl_location", Fate::NotNeeded("quality checklists are not read")),
    ("site.linac.name", Fate::Becomes("site.linac.name")),
    ("site.linac.ip", Fate::Becomes("site.linac.ip")),
    ("site.linac.samba_ip", Fate::Becomes("site.linac.nss_path or nss_host")),
    ("site.linac.energies", Fate::NotNeeded("records and plans name their energies")),
    ("site.linac.aliases.", Fate::NotNeeded(IVIEW)),
    (
        "site.linac.directories.",
        Fate::NotNeeded("images are filed by patient, plan and date below images.root"),
    ),
    (
        "site.daily-wlutz.",
        Fate::NotNeeded("the ball's diameter is an argument of the Winston-Lutz test (bb_mm)"),
    ),
    ("trf_logfiles.root_directory", Fate::Becomes("trf.root")),
    ("icom.patient_directories", Fate::NotNeeded(ICOM_PATHS)),
    ("electron_insert_modelling.", Fate::NotNeeded("electron inserts are no matter of this program")),
    ("monaco_archiving.", Fate::NotNeeded(MONACO)),
    ("chart_checks.", Fate::NotNeeded("charts are not checked")),
    ("pseudo.", Fate::NotNeeded("nothing is made pseudonymous; nothing leaves the site")),
    ("debug.", Fate::NotNeeded("belongs to PyMedPhys's own tests")),
    // The older schema.
    ("linac_logfile_data_directory", Fate::Becomes("trf.root")),
    ("machine_map.*.centre", Fate::Becomes("site of the linac")),
    ("machine_map.*.ip", Fate::Becomes("site.linac.nss_path or nss_host")),
    ("machine_map.*.type", Fate::NotNeeded("records tell what machine they are of")),
    ("machine_types.", Fate::NotNeeded("tolerances belong to the tests in QATrack+")),
    ("centres.*.timezone", Fate::Becomes("site.mosaiq.time_zone")),
    ("centres.*.mosaiq_sql_server", Fate::Becomes("site.mosaiq.host and port")),
    ("centres.*.ois_specific_data.sql_server", Fate::Becomes("site.mosaiq.host")),
    ("centres.*.ois_specific_data.port", Fate::Becomes("site.mosaiq.port")),
    ("centres.", Fate::NotNeeded("a site is its name, its Mosaiq and its linacs")),
    ("metersetmap.", Fate::NotNeeded(GAMMA)),
    ("mu_density.", Fate::NotNeeded(GAMMA)),
];

/// Reads PyMedPhys's configuration.
///
/// # Arguments
/// * `windows` — whether the settings are for Windows, where a UNC path with the account's own login works as it did for PyMedPhys
/// # Errors
/// [`Error::Io`]; [`Error::Settings`] for a file that is neither TOML nor JSON, or redirects in a circle.
pub fn import(file: &Path, windows: bool) -> Result<Imported> {
    let (file, table, mut keys) = follow(file)?;
    leaves("", &Value::Table(table.clone()), &mut keys);
    let mut sites = sites(&table);
    let known = sites.len();
    old_sites(&table, &mut sites);
    let mut to_do = Vec::new();
    if known == 0 && sites.is_empty() {
        to_do.push("no site was found: add [[site]] and [[site.linac]]".to_owned());
    }
    let root =
        text(&table, "trf_logfiles.root_directory").or_else(|| text(&table, "linac_logfile_data_directory"));
    let settings = write(&file, &table, root, &sites, windows, &mut to_do);
    Ok(Imported { file, settings, keys, to_do })
}

/// Reads the file that the redirects lead to.
fn follow(file: &Path) -> Result<(PathBuf, Table, Vec<Key>)> {
    let mut file = file.to_path_buf();
    let mut keys = Vec::new();
    for _ in 0..MAX_REDIRECTS {
        let table = read(&file)?;
        let Some(redirect) = table.get("redirect").and_then(Value::as_str) else {
            return Ok((file, table, keys));
        };
        keys.push(Key { key: "redirect".into(), fate: fate("redirect") });
        // PyMedPhys takes a relative one from wherever it is run; beside the file is what its writer meant.
        file = file.parent().unwrap_or(Path::new("")).join(redirect);
    }
    Err(wrong("redirect", format!("{} redirects in a circle", file.display())))
}

fn read(file: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|e| wrong(&file.display().to_string(), e.to_string()));
    }
    toml::from_str(text).map_err(|e| {
        let line =
            e.to_string().lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
        wrong(&file.display().to_string(), line)
    })
}

/// Notes every key that holds a value, once.
fn leaves(prefix: &str, value: &Value, keys: &mut Vec<Key>) {
    let mut note = |key: &str| {
        if keys.iter().all(|known| known.key != key) {
            keys.push(Key { key: key.to_owned(), fate: fate(key) });
        }
    };
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                leaves(&key, value, keys);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().for_each(|item| leaves(prefix, item, keys));
        }
        _ => note(prefix),
    }
}

/// What becomes of a dotted key.
pub fn fate(key: &str) -> Fate {
    let fits = |pattern: &str| match pattern.split_once(".*.") {
        Some((start, end)) => {
            key.strip_prefix(start).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| {
                rest.strip_suffix(end).is_some_and(|name| name.len() > 1 && name.ends_with('.'))
            })
        }
        None => key == pattern || pattern.ends_with('.') && key.starts_with(pattern),
    };
    FATES.iter().find(|(pattern, _)| fits(pattern)).map_or(Fate::Unknown, |(_, fate)| *fate)
}

/// A site, in either schema.
#[derive(Debug, Default)]
struct Site {
    name: String,
    mosaiq: Option<Mosaiq>,
    linacs: Vec<Linac>,
}

#[derive(Debug)]
struct Mosaiq {
    host: String,
    port: Option<i64>,
    time_zone: Option<String>,
}

#[derive(Debug)]
struct Linac {
    name: String,
    icom: Option<String>,
    share: Option<String>,
}

fn sites(table: &Table) -> Vec<Site> {
    tables(table, "site")
        .map(|site| Site {
            name: text(site, "name").unwrap_or_default(),
            mosaiq: text(site, "mosaiq.hostname").map(|host| Mosaiq {
                host,
                port: number(site, "mosaiq.port"),
                time_zone: text(site, "mosaiq.timezone"),
            }),
            linacs: tables(site, "linac")
                .map(|linac| Linac {
                    name: text(linac, "name").unwrap_or_default(),
                    icom: text(linac, "ip"),
                    share: text(linac, "samba_ip"),
                })
                .collect(),
        })
        .collect()
}

/// The older schema: `centres` by name, `machine_map` by linac.
fn old_sites(table: &Table, sites: &mut Vec<Site>) {
    let entries = |key: &str| table.get(key).and_then(Value::as_table).into_iter().flatten();
    for (name, centre) in entries("centres") {
        let Some(centre) = centre.as_table() else { continue };
        let server =
            text(centre, "mosaiq_sql_server").or_else(|| text(centre, "ois_specific_data.sql_server"));
        let mosaiq = server.map(|server| {
            let (host, port) = server.split_once(':').unwrap_or((&server, ""));
            Mosaiq {
                host: host.to_owned(),
                port: port.parse().ok().or_else(|| number(centre, "ois_specific_data.port")),
                time_zone: text(centre, "timezone"),
            }
        });
        sites.push(Site { name: name.clone(), mosaiq, linacs: Vec::new() });
    }
    for (name, machine) in entries("machine_map") {
        let Some(machine) = machine.as_table() else { continue };
        let centre = text(machine, "centre").unwrap_or_default();
        let linac = Linac { name: name.clone(), icom: None, share: text(machine, "ip") };
        match sites.iter_mut().find(|site| site.name == centre) {
            Some(site) => site.linacs.push(linac),
            None => sites.push(Site { name: centre, mosaiq: None, linacs: vec![linac] }),
        }
    }
}

fn tables<'a>(table: &'a Table, key: &str) -> impl Iterator<Item = &'a Table> + use<'a> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_table)
}

fn at<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((first, rest)) => at(table.get(first)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// A text, trimmed; a number counts as its digits, since linacs are often called by one.
fn text(table: &Table, key: &str) -> Option<String> {
    let text = match at(table, key)? {
        Value::String(text) => text.trim().to_owned(),
        Value::Integer(number) => number.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

fn number(table: &Table, key: &str) -> Option<i64> {
    at(table, key)?.as_integer().or_else(|| text(table, key)?.parse().ok())
}

/// A value in a comment: on one line, so that nothing of it can begin a setting.
fn in_comment(value: &str) -> String {
    format!("\"{}\"", value.escape_debug())
}

/// One line of TOML.
fn line(out: &mut String, key: &str, value: impl Into<Value>) {
    let _ = writeln!(out, "{key} = {}", value.into());
}

fn write(
    file: &Path,
    table: &Table,
    root: Option<String>,
    sites: &[Site],
    windows: bool,
    to_do: &mut Vec<String>,
) -> String {
    let from = in_comment(&file.display().to_string());
    let mut out = format!(
        "# Settings of scp-node, from PyMedPhys's configuration {from}.\n# `scp-node config check` explains what is wrong.\n"
    );
    if let Some(level) = text(table, "cli.logging.level") {
        let level = match level.to_lowercase().as_str() {
            "debug" | "notset" => "debug",
            "warning" | "warn" => "warn",
            "error" | "critical" | "fatal" => "error",
            _ => "info",
        };
        out += "\n[log]\n";
        line(&mut out, "level", level);
    }
    if let Some(root) = root {
        if !Path::new(&root).is_absolute() && !windows_absolute(&root) {
            to_do.push(format!("trf.root: `{root}` is not an absolute path; write it out"));
        }
        out += "\n[trf]\n";
        line(&mut out, "root", root);
    }
    for site in sites {
        out += "\n[[site]]\n";
        line(&mut out, "name", site.name.clone());
        if let Some(mosaiq) = &site.mosaiq {
            write_mosaiq(&mut out, &site.name, mosaiq, windows, to_do);
        }
        for linac in &site.linacs {
            write_linac(&mut out, linac, windows, to_do);
        }
    }
    if sites.iter().flat_map(|site| &site.linacs).any(|linac| linac.icom.is_some()) {
        to_do.push("stop PyMedPhys's iCom listeners before `serve` connects to the same linacs".into());
    }
    out
}

fn windows_absolute(path: &str) -> bool {
    path.starts_with(r"\\") || path.as_bytes().get(1) == Some(&b':')
}

fn write_mosaiq(out: &mut String, site: &str, mosaiq: &Mosaiq, windows: bool, to_do: &mut Vec<String>) {
    let Some(time_zone) = &mosaiq.time_zone else {
        to_do.push(format!("site.mosaiq of `{site}` has no time zone: add it, by its IANA name"));
        let _ = writeln!(out, "# [site.mosaiq]\n# host = {}\n# time_zone = \"…\"", in_comment(&mosaiq.host));
        return;
    };
    if windows {
        *out += "[site.mosaiq]\n";
        line(out, "host", mosaiq.host.clone());
        if let Some(port) = mosaiq.port {
            line(out, "port", port);
        }
        line(out, "time_zone", time_zone.clone());
        *out += "# user = \"…\"\n# password = { file = \"…\" }\n";
        to_do.push(format!(
            "site.mosaiq of `{site}`: it logs in as the service's Windows account; if that may not read, give user and password"
        ));
        return;
    }
    let port = mosaiq.port.map_or(String::new(), |port| format!("# port = {port}\n"));
    let _ = write!(
        out,
        "# [site.mosaiq]\n# host = {}\n{port}# time_zone = {}\n# user = \"…\"\n# password = {{ file = \"…\" }}\n",
        in_comment(&mosaiq.host),
        in_comment(time_zone),
    );
    to_do.push(format!(
        "site.mosaiq of `{site}`: PyMedPhys keeps the login in its key ring; fill in user and password and remove the `#`"
    ));
}

fn write_linac(out: &mut String, linac: &Linac, windows: bool, to_do: &mut Vec<String>) {
    *out += "[[site.linac]]\n";
    line(out, "name", linac.name.clone());
    if let Some(ip) = &linac.icom {
        line(out, "ip", ip.clone());
    }
    let Some(host) = &linac.share else { return };
    let login = format!(
        "# nss_host = {}\n# nss_user = \"…\"\n# nss_password = {{ file = \"…\" }}\n",
        in_comment(host)
    );
    let name = &linac.name;
    if windows {
        line(out, "nss_path", format!(r"\\{host}\Backup\TCS"));
        let _ = writeln!(out, "# or, read by this program itself:\n{}", login.trim_end());
        to_do.push(format!(
            "linac `{name}`: the service's account must be logged in to the share as yours was (cmdkey), or set nss_host, nss_user and nss_password"
        ));
    } else {
        *out += &login;
        to_do.push(format!("linac `{name}`: fill in nss_user and nss_password and remove the `#`, or mount the share and set nss_path"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn imported(name: &str, text: &str, windows: bool) -> (tempfile::TempDir, Imported) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let imported = import(&file, windows).unwrap();
        (dir, imported)
    }

    /// The settings that the text gives; the check is part of loading.
    fn loaded(imported: &Imported) -> Settings {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, &imported.settings).unwrap();
        Settings::load(Some(&file), &[]).unwrap_or_else(|e| panic!("{e}\n{}", imported.settings)).settings
    }

    /// An absolute path on this system.
    const ROOT: &str = if cfg!(windows) { "C:/data/trf" } else { "/data/trf" };

    /// Every key that PyMedPhys 0.41's code and examples have.
    const EVERY_KEY: &str = r#"
version = 0
[cli.logging]
level = "WARNING"
format = "%(message)s"
datefmt = "%H"
[data_methods]
available = ["dicom"]
default_reference = "monaco"
default_evaluation = "trf"
[output]
png_directory = '\\server\png'
[gamma]
dose_percent_threshold = 3
distance_mm_threshold = 3
local_gamma = true
quiet = true
max_gamma = 5
lower_percent_dose_cutoff = 20
[[site]]
name = "rccc"
  [site.export-directories]
  escan = 'a'
  anonymised_monaco = 'b'
  icom_live = 'c'
  iviewdb = 'd'
  icom = 'e'
  [site.monaco]
  focaldata = 'f'
  clinic = 'g'
  hostname = 'h'
  dicom_port = 104
  archive_holding = 'i'
  archive_destination = 'j'
  [site.mosaiq]
  timezone = "Australia/Sydney"
  hostname = "msqsql"
  port = 1434
  alias = "RCCC"
  physics_qcl_location = 1
  [[site.linac]]
  name = "2619"
  ip = "192.168.17.40"
  samba_ip = "192.168.17.41"
  energies = ["6MV"]
    [site.linac.aliases]
    iview = "2619"
    [site.linac.directories]
    qa = 'k'
  [[site.linac]]
  name = 2694
  ip = "192.168.17.50"
  [site.daily-wlutz]
  bb_diameter = 8
[trf_logfiles]
root_directory = '/data/trf'
[icom]
patient_directories = ['l']
[electron_insert_modelling]
data_path = 'm'
  [electron_insert_modelling.patterns]
  beam_model_name = 'n'
  applicator = 'o'
[monaco_archiving]
default_weeks_to_keep = 3
[chart_checks]
archive_path = 'p'
[pseudo]
pepper = 'q'
epoch_jitter = 1
[debug]
baseline_directory = 'r'
"#;

    #[test]
    fn every_key_is_mapped_or_has_a_reason() {
        let (_dir, imported) = imported("config.toml", &EVERY_KEY.replace("/data/trf", ROOT), false);
        assert_eq!(imported.keys.len(), 48, "{:#?}", imported.keys);
        let unknown: Vec<_> = imported.keys.iter().filter(|key| key.fate == Fate::Unknown).collect();
        assert_eq!(unknown, Vec::<&Key>::new());
        let becomes = imported.keys.iter().filter(|key| matches!(key.fate, Fate::Becomes(_))).count();
        assert_eq!(becomes, 9);
        let settings = loaded(&imported);
        assert_eq!(settings.log.level, "warn");
        assert_eq!(settings.trf.root, Path::new(ROOT));
        let site = &settings.sites[0];
        assert_eq!(site.name, "rccc");
        for mosaiq in ["# host = \"msqsql\"", "# port = 1434", "# time_zone = \"Australia/Sydney\""] {
            assert!(imported.settings.contains(mosaiq), "{}", imported.settings);
        }
        let linacs: Vec<_> = site.linacs.iter().map(|l| (l.name.as_str(), l.ip.as_str())).collect();
        assert_eq!(linacs, [("2619", "192.168.17.40"), ("2694", "192.168.17.50")]);
        assert!(imported.settings.contains("# nss_host = \"192.168.17.41\""), "{}", imported.settings);
        assert!(imported.to_do.iter().any(|todo| todo.starts_with("linac `2619`")));
        assert!(imported.to_do.iter().any(|todo| todo.contains("stop PyMedPhys's iCom listeners")));
    }

    #[test]
    fn on_windows_the_share_is_the_path_that_pymedphys_used() {
        let (_dir, imported) =
            imported("config.toml", &EVERY_KEY.replace("/data/trf", r"\\server\trf"), true);
        assert!(
            imported.settings.contains(r#"nss_path = '\\192.168.17.41\Backup\TCS'"#),
            "{}",
            imported.settings
        );
        assert!(imported.to_do.iter().all(|todo| !todo.contains("absolute")));
        let mosaiq = "\n[site.mosaiq]\nhost = \"msqsql\"\nport = 1434\ntime_zone = \"Australia/Sydney\"\n";
        assert!(imported.settings.contains(mosaiq), "{}", imported.settings);
    }

    #[test]
    fn redirects_are_followed_and_circles_are_told() {
        let real = format!("[trf_logfiles]\nroot_directory = '{ROOT}'");
        let (dir, imported) = imported("real.toml", &real, false);
        assert_eq!(imported.keys.len(), 1);
        for (name, to) in [("a.toml", "b.toml"), ("b.toml", "real.toml"), ("c.toml", "c.toml")] {
            std::fs::write(dir.path().join(name), format!("redirect = '{to}'")).unwrap();
        }
        let imported = import(&dir.path().join("a.toml"), false).unwrap();
        assert_eq!(imported.file, dir.path().join("real.toml"));
        assert_eq!(imported.keys[0].key, "redirect");
        assert_eq!(loaded(&imported).trf.root, Path::new(ROOT));
        let error = import(&dir.path().join("c.toml"), false).unwrap_err().to_string();
        assert!(error.contains("circle"), "{error}");
        std::fs::write(dir.path().join("d.toml"), "redirect = 'gone.toml'").unwrap();
        assert!(import(&dir.path().join("d.toml"), false).unwrap_err().to_string().contains("gone.toml"));
    }

    #[test]
    fn the_older_schema_is_read_from_json() {
        let text = r#"{"linac_logfile_data_directory": "/data/trf",
            "machine_map": {"2619": {"centre": "rccc", "type": "agility", "ip": "10.0.0.1"},
                            "4299": {"centre": "nbcc", "type": "agility", "ip": "10.0.0.2"}},
            "machine_types": {"agility": {"gantry_tolerance": 3}},
            "centres": {"rccc": {"timezone": "Australia/Sydney", "ois_specific_data": {"sql_server": "msq", "port": 1433}},
                        "nbcc": {"timezone": "Australia/Sydney", "mosaiq_sql_server": "nbcc:1500", "holidays": "NSW"}},
            "mu_density": {"grid_resolution": 1}, "metersetmap": {"grid_resolution": 1}}"#;
        let (_dir, imported) = imported("config.json", &text.replace("/data/trf", ROOT), false);
        assert!(imported.keys.iter().all(|key| key.fate != Fate::Unknown), "{:#?}", imported.keys);
        let settings = loaded(&imported);
        assert_eq!(settings.trf.root, Path::new(ROOT));
        let sites: Vec<_> =
            (settings.sites.iter()).map(|s| (s.name.as_str(), s.linacs[0].name.as_str())).collect();
        assert_eq!(sites.len(), 2);
        assert!(sites.contains(&("rccc", "2619")) && sites.contains(&("nbcc", "4299")), "{sites:?}");
        for mosaiq in ["# host = \"msq\"\n# port = 1433\n", "# host = \"nbcc\"\n# port = 1500\n"] {
            assert!(imported.settings.contains(mosaiq), "{}", imported.settings);
        }
    }

    #[test]
    fn what_nobody_knows_is_told_and_what_is_no_file_of_settings_is_refused() {
        let (dir, imported) = imported("config.toml", "[trf_logfiles]\nroot = 'x'\n[nonsense]\na = 1", false);
        assert!(imported.keys.iter().all(|key| key.fate == Fate::Unknown) && imported.keys.len() == 2);
        assert!(imported.to_do[0].contains("no site was found"));
        for text in ["a = ", "{ \"a\": ", "just words"] {
            std::fs::write(dir.path().join("bad.toml"), text).unwrap();
            let error = import(&dir.path().join("bad.toml"), false).unwrap_err().to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn values_cannot_write_settings_of_their_own() {
        let (_dir, imported) = imported(
            "config.toml",
            "[[site]]\nname = \"a\\\"\\n[node]\\nport = 1\\n#\"\n[[site.linac]]\nname = 'x'\nsamba_ip = \"h\\n[node]\\nport = 1\"",
            false,
        );
        let settings = loaded(&imported);
        assert_eq!(settings.node.port, Settings::default().node.port);
        assert_eq!(settings.sites[0].name, "a\"\n[node]\nport = 1\n#");
    }
}
