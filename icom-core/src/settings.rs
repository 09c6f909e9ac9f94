//! Settings of the listener, with defaults that work on one machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::files::safe_part;
use crate::{Error, Result};

/// Port of a linac's listen-only iCom stream (Vx).
pub const ICOM_PORT: u16 = 1706;

/// One linac to listen to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinacSettings {
    /// What users call it; names its live state and its journal.
    pub name: String,
    /// Host name or address of its iCom port.
    pub host: String,
    /// The port.
    #[serde(default = "icom_port")]
    pub port: u16,
    /// Address at which other clients get the same stream from us, so that the linac has one client only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_through: Option<SocketAddr>,
}

const fn icom_port() -> u16 {
    ICOM_PORT
}

impl LinacSettings {
    /// A linac at `HOST[:PORT]`, called by its host.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the port is no number.
    pub fn at(address: &str) -> Result<Self> {
        let (host, port) = match address.rsplit_once(':') {
            // More than one colon without brackets is an IPv6 address without a port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port = port.parse().map_err(|_| Error::Misuse {
                    what: format!(
                        "`{address}` is no linac: give HOST or HOST:PORT, such as 192.168.30.2:1706"
                    ),
                })?;
                (host.trim_matches(['[', ']']), port)
            }
            _ => (address.trim_matches(['[', ']']), ICOM_PORT),
        };
        Ok(Self { name: host.to_owned(), host: host.to_owned(), port, pass_through: None })
    }
}

/// Everything the listener needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerSettings {
    /// Where live state, records and index go: a local disk, for SQLite's sake.
    pub dir: PathBuf,
    /// Where the journal goes: a local disk. `<dir>/journal` if empty.
    pub journal_dir: PathBuf,
    /// Time between two fsyncs of the journal; what a power failure may cost.
    pub fsync_interval_ms: u64,
    /// Memory per linac for bytes that the disk does not take, MB.
    pub memory_mb: u32,
    /// How long the journal is kept after its records are written, hours.
    pub journal_keep_hours: u32,
    /// How long records without MU are kept, days.
    pub no_mu_keep_days: u32,
    /// No bytes for so long means a dead link, seconds.
    pub silence_s: u32,
    /// Wait before the first try to reconnect, ms; it doubles with each.
    pub reconnect_first_ms: u64,
    /// Longest wait before a try to reconnect, seconds; a link that lasts longer begins anew at the first.
    pub reconnect_longest_s: u32,
    /// No messages for so long end an open record, minutes.
    pub record_silence_min: u32,
    /// Longest wait for beam-off at a planned stop, seconds.
    pub beam_off_wait_s: u32,
    /// Whether a stop ends open records; otherwise the next start goes on with them.
    pub finish_on_stop: bool,
    /// Whether to keep PyMedPhys's ring of messages, `live/<host>/NNN.txt`, for its status panel.
    pub pymedphys_live: bool,
    /// Whom to listen to; set by `[[site.linac]]`.
    #[serde(skip)]
    pub linacs: Vec<LinacSettings>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            journal_dir: PathBuf::new(),
            fsync_interval_ms: 1000,
            memory_mb: 64,
            journal_keep_hours: 24,
            no_mu_keep_days: 30,
            silence_s: 10,
            reconnect_first_ms: 1000,
            reconnect_longest_s: 60,
            record_silence_min: 15,
            beam_off_wait_s: 60,
            finish_on_stop: false,
            pymedphys_live: false,
            linacs: Vec::new(),
        }
    }
}

impl ListenerSettings {
    /// Checks what types alone cannot say.
    ///
    /// # Errors
    /// [`Error::Misuse`] with the key that is wrong and what would be right.
    pub fn check(&self) -> Result<()> {
        let misuse = |what: String| Err(Error::Misuse { what });
        let ranges = [
            ("icom.fsync_interval_ms", self.fsync_interval_ms, 10, 60_000),
            ("icom.memory_mb", u64::from(self.memory_mb), 1, 4096),
            ("icom.journal_keep_hours", u64::from(self.journal_keep_hours), 0, 24 * 366),
            ("icom.no_mu_keep_days", u64::from(self.no_mu_keep_days), 0, 100 * 366),
            ("icom.silence_s", u64::from(self.silence_s), 1, 600),
            ("icom.reconnect_first_ms", self.reconnect_first_ms, 10, 60_000),
            ("icom.reconnect_longest_s", u64::from(self.reconnect_longest_s), 1, 3600),
            ("icom.record_silence_min", u64::from(self.record_silence_min), 1, 1440),
            ("icom.beam_off_wait_s", u64::from(self.beam_off_wait_s), 0, 3600),
        ];
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return misuse(format!("{key} = {value}: give a number from {least} to {most}"));
            }
        }
        let mut names: Vec<String> = self.linacs.iter().map(|l| safe_part(&l.name).to_lowercase()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            let name = pair.first().map_or("", String::as_str);
            return misuse(format!("two linacs are called `{name}`: give each its own name"));
        }
        if self.linacs.iter().any(|linac| linac.name.trim().is_empty() || linac.host.trim().is_empty()) {
            return misuse("a linac has no name or no host: set both".into());
        }
        Ok(())
    }

    /// Where the journals are.
    #[must_use]
    pub fn journal_root(&self) -> PathBuf {
        if self.journal_dir.as_os_str().is_empty() {
            self.dir.join("journal")
        } else {
            self.journal_dir.clone()
        }
    }

    pub(crate) fn journal_of(&self, linac: &LinacSettings) -> PathBuf {
        self.journal_root().join(safe_part(&linac.name))
    }

    pub(crate) const fn fsync_interval(&self) -> Duration {
        Duration::from_millis(self.fsync_interval_ms)
    }
}

/// Where the index is below the listener's directory.
#[must_use]
pub fn index_path(dir: &Path) -> PathBuf {
    dir.join("index.sqlite")
}

/// Where a linac's live state is below the listener's directory.
#[must_use]
pub fn live_path(dir: &Path, linac: &str) -> PathBuf {
    dir.join("live").join(format!("{}.json", safe_part(linac)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linac_is_a_host_with_or_without_a_port() {
        for (text, host, port) in [
            ("192.168.30.2", "192.168.30.2", 1706),
            ("linac.example:1707", "linac.example", 1707),
            ("::1", "::1", 1706),
            ("[::1]:1707", "::1", 1707),
        ] {
            let linac = LinacSettings::at(text).unwrap();
            assert_eq!((linac.host.as_str(), linac.port), (host, port));
        }
        assert!(LinacSettings::at("host:icom").unwrap_err().to_string().contains("HOST:PORT"));
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_its_key_and_range() {
        let settings = ListenerSettings { no_mu_keep_days: u32::MAX, ..Default::default() };
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains("icom.no_mu_keep_days") && error.contains("from 0 to 36600"), "{error}");
    }

    #[test]
    fn two_linacs_of_one_name_are_refused() {
        let linac = LinacSettings::at("a").unwrap();
        let upper = LinacSettings { name: "A".into(), ..linac.clone() };
        let settings = ListenerSettings { linacs: vec![linac, upper], ..Default::default() };
        assert!(settings.check().unwrap_err().to_string().contains("own name"));
        ListenerSettings::default().check().unwrap();
    }
}
