//! One TOML file, typed: every setting has a default that works on one machine, and every error names its key.
//!
//! Precedence: flag > environment > file > default, resolved once by [`Settings::load`]. The environment overrides single
//! keys as `SCP_NODE__NODE__PORT=11113`; a flag does as `--set node.port=11113`. The file is the first of: `--config`,
//! `SCP_NODE_CONFIG`, the system place ([`system_file`]).

mod analysis;
mod archive;
mod hooks;
mod images;
pub mod import;
mod mosaiq;
mod node;
mod secret;
mod site;
mod trf;
mod web;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use analysis::AnalysisSettings;
pub use archive::{ArchiveSettings, Strategy};
pub use hooks::HookSettings;
pub use images::{Durability, ImageSettings, StorageClasses};
pub use mosaiq::{Encrypt, MosaiqSettings};
pub use node::{AccessSettings, LimitSettings, NodeSettings, TimeoutSettings};
pub use secret::{Place, Secret};
pub use site::{LinacSettings, SiteSettings};
pub use trf::{AfterExtract, TrfSettings};
pub use web::WebSettings;

use crate::error::{Error, Result};

/// Environment variable that names the settings file.
pub const CONFIG_VARIABLE: &str = "SCP_NODE_CONFIG";
/// Prefix of environment variables that override one key.
const KEY_PREFIX: &str = "SCP_NODE__";

/// All settings, resolved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Our own application entity.
    pub node: NodeSettings,
    /// Where objects lie and how they get there.
    pub images: ImageSettings,
    /// The archives that may be asked, `[[archive]]`; the first is the one that is asked by default.
    #[serde(rename = "archive", skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<ArchiveSettings>,
    /// The sites and their linacs, `[[site]]` and `[[site.linac]]`.
    #[serde(rename = "site", skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteSettings>,
    /// Where the linacs' log files are collected, and how.
    pub trf: TrfSettings,
    /// How iCom is listened to and kept; an empty `dir` is `icom` in the system's place.
    pub icom: icom_core::ListenerSettings,
    /// Commands of the site that the service runs.
    pub hooks: HookSettings,
    /// How `qatrack_ext` runs pylinac.
    pub analysis: AnalysisSettings,
    /// The status page, `/metrics` and `/healthz`.
    pub web: WebSettings,
    /// What is logged.
    pub log: LogSettings,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`; of single parts too, as in `info,scp_node::scp=debug`.
    pub level: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".into(), json: false }
    }
}

impl LogSettings {
    /// What is no level would be taken for the name of a part, and nothing else be logged.
    fn check(&self) -> Result<()> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        for directive in self.level.split(',') {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
            if !LEVELS.iter().any(|l| l.eq_ignore_ascii_case(level)) {
                let what = format!("`{level}` is none of {}", LEVELS.join(", "));
                return Err(wrong("log.level", what));
            }
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The settings file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// `--set`.
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// Settings, and where each value came from.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The values in force.
    pub settings: Settings,
    /// Dotted key to origin; a key that is absent has its default.
    pub origins: BTreeMap<String, Origin>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

/// The system's place for the settings file: `/etc/scp-node/config.toml`, on Windows `%ProgramData%\scp-node\config.toml`.
pub fn system_file() -> PathBuf {
    if cfg!(windows) { home().join("config.toml") } else { PathBuf::from("/etc/scp-node/config.toml") }
}

/// The system's place for data: `/var/lib/scp-node`, on Windows `%ProgramData%\scp-node`.
pub fn home() -> PathBuf {
    if cfg!(windows) {
        let data = std::env::var_os("ProgramData").unwrap_or_else(|| r"C:\ProgramData".into());
        PathBuf::from(data).join("scp-node")
    } else {
        PathBuf::from("/var/lib/scp-node")
    }
}

impl Settings {
    /// Reads settings from the places in order of precedence.
    ///
    /// # Arguments
    /// * `file` — what `--config` names; it must exist then
    /// * `flags` — `key=value` as given to `--set`
    /// # Errors
    /// [`Error::Settings`] with the key; [`Error::Io`] when a named file cannot be read.
    pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Resolved> {
        let environment: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        Self::resolve(file, flags, &environment)
    }

    fn resolve(file: Option<&Path>, flags: &[String], environment: &[(String, String)]) -> Result<Resolved> {
        let mut origins = BTreeMap::new();
        let mut table = toml::Table::new();
        let named = environment.iter().find(|(k, v)| k == CONFIG_VARIABLE && !v.is_empty());
        let named = named.map(|(_, v)| PathBuf::from(v));
        let file = match file.map(Path::to_path_buf).or(named) {
            Some(path) => Some(path),
            None => Some(system_file()).filter(|path| path.exists()),
        };
        if let Some(path) = &file {
            table = read(path)?;
            note_leaves("", &toml::Value::Table(table.clone()), &Origin::File(path.clone()), &mut origins);
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(KEY_PREFIX) {
                let key = key.to_lowercase().replace("__", ".");
                set(&mut table, &key, value)?;
                origins.insert(key, Origin::Environment(name.clone()));
            }
        }
        for flag in flags {
            let (key, value) = flag.split_once('=').ok_or_else(|| Error::Settings {
                key: flag.clone(),
                what: "`--set` takes key=value, such as node.port=11113".into(),
            })?;
            set(&mut table, key.trim(), value)?;
            origins.insert(key.trim().to_owned(), Origin::Flag);
        }
        let settings: Self = serde_path_to_error::deserialize(toml::Value::Table(table))
            .map_err(|e| wrong(&e.path().to_string(), in_plain_words(&e.into_inner().to_string())))?;
        settings.check()?;
        Ok(Resolved { settings, origins, file })
    }

    /// Checks what types alone cannot say.
    ///
    /// # Errors
    /// [`Error::Settings`] with the first key that is wrong and what would be right.
    pub fn check(&self) -> Result<()> {
        self.node.check()?;
        self.images.check()?;
        self.trf.check()?;
        self.hooks.check()?;
        self.analysis.check()?;
        self.web.check()?;
        self.log.check()?;
        self.sites.iter().try_for_each(SiteSettings::check)?;
        let mut shared = std::collections::BTreeSet::new();
        for linac in self.sites.iter().flat_map(|site| &site.linacs).filter(|linac| linac.has_share()) {
            if !shared.insert(linac.name.to_lowercase()) {
                let what =
                    format!("two linacs are called `{}`: their log files need a directory each", linac.name);
                return Err(wrong("site.linac.name", what));
            }
        }
        for (key, path) in [("icom.dir", &self.icom.dir), ("icom.journal_dir", &self.icom.journal_dir)] {
            // A service's working directory is not the web server's.
            if !path.as_os_str().is_empty() && !path.is_absolute() {
                return Err(wrong(key, format!("`{}` is not an absolute path", path.display())));
            }
        }
        self.listener().check().map_err(|error| wrong("icom", error.to_string()))?;
        let mut names = std::collections::BTreeSet::new();
        for archive in &self.archives {
            archive.check()?;
            if !names.insert(archive.name.to_lowercase()) {
                return Err(wrong(
                    "archive.name",
                    format!("two archives are called `{}`: give each its own name", archive.name),
                ));
            }
        }
        Ok(())
    }

    /// `[icom]` with its directory and the linacs of all sites filled in.
    pub fn listener(&self) -> icom_core::ListenerSettings {
        let mut listener = self.icom.clone();
        if listener.dir.as_os_str().is_empty() {
            listener.dir = home().join("icom");
        }
        listener.linacs = (self.sites.iter().flat_map(|site| &site.linacs))
            .filter(|linac| !linac.ip.trim().is_empty())
            .map(|linac| icom_core::LinacSettings {
                name: linac.name.clone(),
                host: linac.ip.clone(),
                port: linac.icom_port,
                pass_through: linac.icom_pass_through,
            })
            .collect();
        listener
    }

    /// The archive of this name, or the first one when no name is given.
    ///
    /// # Errors
    /// [`Error::Misuse`] when there is none.
    pub fn archive(&self, name: Option<&str>) -> Result<&ArchiveSettings> {
        let Some(first) = self.archives.first() else {
            return Err(Error::Misuse {
                what: "settings: no archive is set".into(),
                hint: "add an [[archive]] section with name, ae_title, host and port; `scp-node config check` says which file is read".into(),
            });
        };
        let Some(name) = name else { return Ok(first) };
        self.archives.iter().find(|a| a.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<&str> = self.archives.iter().map(|a| a.name.as_str()).collect();
            Error::Misuse {
                what: format!("settings: no archive is called `{name}`"),
                hint: format!("there are: {}; leave the name out for the first one", known.join(", ")),
            }
        })
    }
}

/// An error about one key.
pub(crate) fn wrong(key: &str, what: String) -> Error {
    Error::Settings { key: key.into(), what }
}

/// Checks a number of seconds.
pub(crate) fn seconds(key: &str, value: f64) -> Result<()> {
    if value.is_finite() && (0.001..=86_400.0).contains(&value) {
        return Ok(());
    }
    Err(wrong(key, format!("{value} is not between 0.001 and 86400 s")))
}

/// The settings file, as TOML.
fn read(path: &Path) -> Result<toml::Table> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let in_file = |what| wrong(&path.display().to_string(), what);
    let text = String::from_utf8(bytes).map_err(|e| {
        let line =
            1 + e.as_bytes().iter().take(e.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count();
        in_file(format!("line {line} is not UTF-8: save the file as UTF-8"))
    })?;
    toml::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| in_file(in_plain_words(&e.to_string())))
}

/// What serde and toml say, on one line, with what it means for whoever writes the file.
fn in_plain_words(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    let meant = [
        ("expected u16", "a number from 0 to 65535, without quotes"),
        ("expected u32", "a whole number, without quotes"),
        ("expected u64", "a whole number, without quotes; sizes are in bytes"),
        ("expected usize", "a whole number, without quotes"),
        ("expected a sequence", "a list; a section that may stand several times is written [[section]]"),
        ("escape", "a Windows path stands in single quotes, as in 'C:\\scp-node'"),
    ];
    match meant.iter().find(|(said, _)| line.contains(said)) {
        Some((_, meaning)) => format!("{line} ({meaning})"),
        None => line,
    }
}

fn note_leaves(prefix: &str, value: &toml::Value, origin: &Origin, origins: &mut BTreeMap<String, Origin>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                note_leaves(&key, value, origin, origins);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (n, item) in items.iter().enumerate() {
                note_leaves(&format!("{prefix}.{n}"), item, origin, origins);
            }
        }
        _ => {
            origins.insert(prefix.to_owned(), origin.clone());
        }
    }
}

/// Sets one dotted key; the text is read as TOML, and as a plain string when it is none.
fn set(table: &mut toml::Table, key: &str, text: &str) -> Result<()> {
    let value = toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().filter(|p| !p.is_empty()).ok_or_else(|| wrong(key, "a key is missing".into()))?;
    let mut here = table;
    for part in parts {
        here = here
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| {
                wrong(key, format!("`{part}` is no section; a list such as [[archive]] is set in the file"))
            })?;
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str, flags: &[&str], environment: &[(&str, &str)]) -> Result<Resolved> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let environment: Vec<_> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let flags: Vec<_> = flags.iter().map(|f| (*f).to_owned()).collect();
        Settings::resolve(Some(&path), &flags, &environment)
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[node]\nport = 1001\nae_title = 'FROM_FILE'\nbind = '127.0.0.1'";
        let environment = [("SCP_NODE__NODE__PORT", "1002"), ("SCP_NODE__NODE__AE_TITLE", "FROM_ENV")];
        let r = resolve(file, &["node.port=1003"], &environment).unwrap();
        assert_eq!(r.settings.node.port, 1003);
        assert_eq!(r.settings.node.ae_title.as_str(), "FROM_ENV");
        assert_eq!(r.settings.node.bind.to_string(), "127.0.0.1");
        assert_eq!(r.origins["node.port"], Origin::Flag);
        assert_eq!(r.origins["node.ae_title"], Origin::Environment("SCP_NODE__NODE__AE_TITLE".into()));
        assert!(matches!(r.origins["node.bind"], Origin::File(_)));
        assert!(!r.origins.contains_key("images.durability"));
    }

    #[test]
    fn an_error_names_its_key_and_what_would_be_right() {
        let cases = [
            ("[node]\nprot = 1", "node", "unknown field `prot`"),
            ("[node]\nport = 'x'", "node.port", "expected u16"),
            ("[node]\nae_title = 'SEVENTEEN_LETTERS'", "node.ae_title", "AE title"),
            ("[images]\ndurability = 'none'", "images.durability", "full"),
            ("[trf]\nwarn_after_days = 8", "trf.warn_after_days", "between 1 and 7"),
            ("[trf]\nsync_at = ['5h30']", "trf.sync_at", "such as 05:30"),
            ("[trf]\nafter_extract = 'burn'", "trf.after_extract", "move"),
            (
                "[[site]]\n[[site.linac]]\nname = 'a'\nnss_path = '/a'\nnss_host = 'b'",
                "site.linac.nss_path",
                "one of them",
            ),
            ("[[site]]\n[[site.linac]]\nname = 'a'\nnss_host = 'b'", "site.linac.nss_user", "`a`"),
            ("[[site]]\n[[site.linac]]\nname = '../a'\nnss_path = '/b'", "site.linac.name", "directory"),
            (
                "[[site]]\n[[site.linac]]\nname = 'a'\nnss_path = '/a'\n[[site]]\n[[site.linac]]\nname = 'A'\nnss_path = '/b'",
                "site.linac.name",
                "a directory each",
            ),
            ("[hooks]\nat_once = 0", "hooks.at_once", "between 1 and 64"),
            ("[hooks]\nsettle_s = 0.0", "hooks.settle_s", "between 0.001 and 86400"),
            ("[analysis]\npython = 'python3'", "analysis.python", "absolute path"),
            ("[web]\nbind = 'localhost'", "web.bind", "127.0.0.1:8104"),
            ("[icom]\ndir = 'icom'", "icom.dir", "absolute path"),
            ("[log]\nlevel = 'warning'", "log.level", "error, warn, info"),
            ("[log]\nlevel = 'info,scp_node'", "log.level", "`scp_node`"),
            ("[node.limits]\nassociations_per_peer = 0", "node.limits.associations_per_peer", "at least 1"),
            ("[images]\nquota_bytes = '10GB'", "images.quota_bytes", "in bytes"),
            ("[images]\nroot = \"C:\\scp\"", "config.toml", "single quotes"),
            ("[archive]\nname = 'a'", "archive", "[[section]]"),
            ("[[archive]]\nname = 'a'\nae_title='A'\nhost='h'\nport=0", "archive.port", "`a`"),
            ("[[archive]]\nname = 'a'\nae_title='A'\nhost='h:104'", "archive.host", "`port`"),
            ("[[archive]]\nname = 'a'\nae_title='A'\nhost='http://h'", "archive.host", "`port`"),
            (
                "[[archive]]\nname = 'a'\nae_title='A'\nhost='h'\nresponse_timeout_s=0.0",
                "archive.response_timeout_s",
                "between 0.001",
            ),
            (
                "[[archive]]\nname = 'a'\nae_title='A'\nhost='h'\n[[archive]]\nname='A'\nae_title='B'\nhost='h'",
                "archive.name",
                "own name",
            ),
        ];
        for (file, key, what) in cases {
            let error = resolve(file, &[], &[]).map(|_| ()).expect_err(file).to_string();
            assert!(error.contains(key) && error.contains(what), "{file:?} gave {error:?}");
            assert_eq!(error.lines().count(), 1);
        }
    }

    #[test]
    fn levels_of_single_parts_are_levels_and_so_is_a_host_by_its_ipv6_address() {
        for (file, flag) in [
            ("", "log.level=warn,scp_node::scp=debug"),
            ("", "log.level=OFF"),
            ("[[archive]]\nname = 'a'\nae_title='A'\nhost='fd00::7'", "node.port=1"),
        ] {
            resolve(file, &[flag], &[]).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_told_with_its_line_and_one_with_a_byte_order_mark_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, b"[node]\n# f\xFCr Aria\nport = 1").unwrap();
        let error = Settings::resolve(Some(&path), &[], &[]).unwrap_err();
        assert!(error.to_string().contains("line 2 is not UTF-8"), "{error}");
        std::fs::write(&path, "\u{feff}[node]\nport = 1").unwrap();
        assert_eq!(Settings::resolve(Some(&path), &[], &[]).unwrap().settings.node.port, 1);
        // A variable that is set to nothing names no file.
        let nothing = [(CONFIG_VARIABLE.to_owned(), String::new())];
        assert_eq!(Settings::resolve(Some(&path), &[], &nothing).unwrap().settings.node.port, 1);
    }

    #[test]
    fn defaults_pass_their_own_check_and_survive_toml() {
        let settings = Settings::default();
        settings.check().unwrap();
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), settings);
    }
}
