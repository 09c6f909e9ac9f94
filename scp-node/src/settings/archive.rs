//! `[[archive]]`: an archive that is asked by C-FIND and C-MOVE.

use serde::{Deserialize, Serialize};

use super::{seconds, wrong};
use crate::error::Result;
use crate::names::AeTitle;

/// One `[[archive]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSettings {
    /// What users call it on the command line.
    pub name: String,
    /// Its AE title.
    pub ae_title: AeTitle,
    /// Host name or address.
    pub host: String,
    /// Port; 51402 is what Aria's DB Service has by custom.
    #[serde(default = "default_port")]
    pub port: u16,
    /// How it is asked.
    #[serde(default)]
    pub strategy: Strategy,
    /// Seconds for which an answer is not asked for again.
    #[serde(default = "default_fresh_for")]
    pub fresh_for_s: f64,
    /// Seconds for connecting and associating.
    #[serde(default = "default_connect")]
    pub connect_timeout_s: f64,
    /// Seconds between two messages of the archive; some Aria sites need well above 25.
    #[serde(default = "default_response")]
    pub response_timeout_s: f64,
    /// Associations that we hold with it at once, to ask about several series side by side.
    #[serde(default = "default_associations")]
    pub associations: usize,
}

/// How an archive is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Find out once and remember.
    #[default]
    Auto,
    /// IMAGE-level queries with keys of all levels: Aria. PS3.4 §C.4.1.2.2.2.
    Relational,
    /// One level after the other, with the unique keys of the levels above. PS3.4 §C.4.1.2.2.1.
    Hierarchical,
}

fn default_port() -> u16 {
    51402
}
fn default_fresh_for() -> f64 {
    30.0
}
fn default_connect() -> f64 {
    5.0
}
fn default_response() -> f64 {
    60.0
}
fn default_associations() -> usize {
    2
}

impl ArchiveSettings {
    /// An archive with defaults for all that is not named.
    pub fn new(name: &str, ae_title: AeTitle, host: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            ae_title,
            host: host.into(),
            port,
            strategy: Strategy::Auto,
            fresh_for_s: default_fresh_for(),
            connect_timeout_s: default_connect(),
            response_timeout_s: default_response(),
            associations: default_associations(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = &self.name;
        if name.is_empty() {
            return Err(wrong("archive.name", "an archive has no name".into()));
        }
        if self.port == 0 {
            return Err(wrong("archive.port", format!("0 is no port of archive `{name}`")));
        }
        let is_address = self.host.parse::<std::net::IpAddr>().is_ok();
        let is_odd = |c: char| c == ':' || c == '/' || c.is_whitespace();
        if self.host.is_empty() || !is_address && self.host.contains(is_odd) {
            let what = format!(
                "`{}` of archive `{name}` is no host name or address; its port stands in `port`",
                self.host
            );
            return Err(wrong("archive.host", what));
        }
        if !(1..=16).contains(&self.associations) {
            return Err(wrong(
                "archive.associations",
                format!("{} is not between 1 and 16", self.associations),
            ));
        }
        seconds("archive.connect_timeout_s", self.connect_timeout_s)?;
        seconds("archive.response_timeout_s", self.response_timeout_s)?;
        // Nothing is remembered then.
        if self.fresh_for_s == 0.0 { Ok(()) } else { seconds("archive.fresh_for_s", self.fresh_for_s) }
    }
}
