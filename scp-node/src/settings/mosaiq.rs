//! `[site.mosaiq]`: the site's Mosaiq database, read only.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Secret, seconds, wrong};
use crate::error::Result;

/// `[site.mosaiq]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MosaiqSettings {
    /// Host name or address of the SQL Server.
    pub host: String,
    /// Its port; not used when an instance is named.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Named instance, whose port the server's browser service tells (UDP 1434).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Database.
    #[serde(default = "default_database")]
    pub database: String,
    /// Time zone of the wall clock in the database, by its IANA name such as `Australia/Sydney`. There is no default: a wrong
    /// zone gives records to the wrong patient.
    pub time_zone: String,
    /// What is encrypted.
    #[serde(default)]
    pub encrypt: Encrypt,
    /// Certificate (PEM or DER) of who signed the server's, in addition to what the system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_ca: Option<PathBuf>,
    /// Takes any certificate: encrypted, but not proven to be the server.
    #[serde(default)]
    pub trust_any: bool,
    /// Login of SQL Server that may read, best of `db_datareader` alone; empty: the Windows account that runs this.
    #[serde(default)]
    pub user: String,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// Seconds for connecting and logging in.
    #[serde(default = "default_connect")]
    pub connect_timeout_s: f64,
    /// Seconds for one query.
    #[serde(default = "default_query")]
    pub query_timeout_s: f64,
}

/// What of the conversation with the SQL Server is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encrypt {
    /// All of it; a server that cannot is refused.
    #[default]
    Full,
    /// The login; the rest too if the server wants it.
    Login,
    /// Nothing, unless the server insists.
    None,
}

fn default_port() -> u16 {
    1433
}
fn default_database() -> String {
    "MOSAIQ".into()
}
fn default_connect() -> f64 {
    10.0
}
fn default_query() -> f64 {
    60.0
}

impl MosaiqSettings {
    /// A Mosaiq with defaults for all that is not named.
    pub fn new(host: &str, time_zone: &str) -> Self {
        Self {
            host: host.into(),
            port: default_port(),
            instance: None,
            database: default_database(),
            time_zone: time_zone.into(),
            encrypt: Encrypt::default(),
            trust_ca: None,
            trust_any: false,
            user: String::new(),
            password: None,
            connect_timeout_s: default_connect(),
            query_timeout_s: default_query(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.host.trim().is_empty() || self.port == 0 || self.database.trim().is_empty() {
            return Err(wrong("site.mosaiq", "host, port and database must not be empty or 0".into()));
        }
        if self.instance.as_ref().is_some_and(|name| name.trim().is_empty()) {
            return Err(wrong("site.mosaiq.instance", "is empty: name the instance, or leave it out".into()));
        }
        if self.trust_any && self.trust_ca.is_some() {
            return Err(wrong("site.mosaiq.trust_any", "contradicts trust_ca: leave one of them out".into()));
        }
        match (&self.password, self.user.is_empty()) {
            (Some(password), false) => password.check("site.mosaiq.password")?,
            (Some(_), true) => {
                return Err(wrong("site.mosaiq.user", "is missing: the password is for which login?".into()));
            }
            (None, false) => {
                let what = format!("is missing for `{}`: give it, best as {{ file = \"PATH\" }}", self.user);
                return Err(wrong("site.mosaiq.password", what));
            }
            (None, true) if !cfg!(windows) => {
                let what = "is missing: logging in as the account that runs this is for Windows only";
                return Err(wrong("site.mosaiq.user", what.into()));
            }
            (None, true) => {}
        }
        seconds("site.mosaiq.connect_timeout_s", self.connect_timeout_s)?;
        seconds("site.mosaiq.query_timeout_s", self.query_timeout_s)?;
        self.check_time_zone()
    }

    /// The table of time zones is linked with the command line and the service, not into Python.
    #[cfg(feature = "server")]
    fn check_time_zone(&self) -> Result<()> {
        self.zone().map(|_| ())
    }

    #[cfg(not(feature = "server"))]
    fn check_time_zone(&self) -> Result<()> {
        Ok(())
    }

    /// What is needed to connect, the password read from where it is kept.
    ///
    /// # Errors
    /// [`crate::Error::Settings`] or [`crate::Error::Io`] when the password is not where the settings say.
    #[cfg(feature = "server")]
    pub fn server(&self) -> Result<trf_core::mosaiq::Server> {
        use std::time::Duration;

        use trf_core::mosaiq::{Encryption, Login, Server, Trust};
        let login = match &self.password {
            Some(password) => Login::Password {
                user: self.user.clone(),
                password: password.reveal("site.mosaiq.password")?,
            },
            None => Login::Integrated,
        };
        Ok(Server {
            port: self.port,
            instance: self.instance.clone(),
            database: self.database.clone(),
            encryption: match self.encrypt {
                Encrypt::Full => Encryption::Full,
                Encrypt::Login => Encryption::Login,
                Encrypt::None => Encryption::None,
            },
            trust: match &self.trust_ca {
                _ if self.trust_any => Trust::Any,
                Some(path) => Trust::Authority(path.clone()),
                None => Trust::System,
            },
            connect_timeout: Duration::from_secs_f64(self.connect_timeout_s),
            query_timeout: Duration::from_secs_f64(self.query_timeout_s),
            ..Server::new(&self.host, login)
        })
    }

    /// The time zone of the server's wall clock.
    ///
    /// # Errors
    /// [`crate::Error::Settings`] when no zone has this name.
    #[cfg(feature = "server")]
    pub fn zone(&self) -> Result<trf_core::Zone> {
        trf_core::Zone::named(&self.time_zone).ok_or_else(|| {
            let what = format!(
                "`{}` is no IANA time zone: give one such as Europe/London or Australia/Sydney, as listed on \
                 https://en.wikipedia.org/wiki/List_of_tz_database_time_zones",
                self.time_zone
            );
            wrong("site.mosaiq.time_zone", what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "host = 'sql'\ntime_zone = 'Europe/London'\nuser = 'reader'\npassword = 'x'\n";

    fn check(toml: &str) -> std::result::Result<MosaiqSettings, String> {
        let settings: MosaiqSettings = toml::from_str(toml).map_err(|e| e.to_string())?;
        settings.check().map_err(|e| e.to_string())?;
        Ok(settings)
    }

    #[test]
    fn what_is_not_named_is_safe() {
        let settings = check(LEAST).unwrap();
        assert_eq!((settings.port, settings.database.as_str()), (1433, "MOSAIQ"));
        assert_eq!((settings.encrypt, settings.trust_any), (Encrypt::Full, false));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key() {
        let cases = [
            ("time_zone = 'Europe/London'", "missing field `host`"),
            ("host = 'sql'", "missing field `time_zone`"),
            (
                "host = 'sql'\ntime_zone = 'Europe/London'\nuser = 'reader'",
                "site.mosaiq.password: is missing",
            ),
            ("host = 'sql'\ntime_zone = 'Europe/London'\npassword = 'x'", "site.mosaiq.user: is missing"),
        ];
        for (toml, what) in cases {
            let error = check(toml).unwrap_err();
            assert!(error.contains(what), "{toml}: {error}");
        }
        let cases = [
            ("encrypt = 'some'", "`full`"),
            ("trust_any = true\ntrust_ca = 'ca.pem'", "contradicts trust_ca"),
            ("query_timeout_s = 0", "between 0.001"),
            ("port = 0", "must not be empty or 0"),
            ("instance = ' '", "name the instance"),
        ];
        for (more, what) in cases {
            let error = check(&format!("{LEAST}{more}")).unwrap_err();
            assert!(error.contains(what), "{more}: {error}");
        }
    }

    #[cfg(feature = "server")]
    #[test]
    fn a_time_zone_is_known_by_its_iana_name() {
        let error = check(&LEAST.replace("Europe/London", "AUS Eastern Standard Time")).unwrap_err();
        assert!(error.contains("site.mosaiq.time_zone") && error.contains("Australia/Sydney"), "{error}");
        assert_eq!(check(LEAST).unwrap().zone().unwrap(), trf_core::Zone::named("Europe/London").unwrap());
    }
}
