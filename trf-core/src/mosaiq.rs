//! Mosaiq: who was treated when on which machine, and what was planned, read from the record and verify system's SQL Server.
//!
//! Input: a server and a login that may read. Output: [`Treatment`]s of one machine
//! and span of time, and the [`Field`] that was planned. Trust: the server is the hospital's own, yet every value is checked for its type,
//! every answer is bounded, and no text of an answer gets into an error. Nothing is ever written: the connection says
//! `ApplicationIntent=ReadOnly` and sends SELECT only, values always as parameters. Not supported: other record and verify
//! systems, TLS below 1.2.
//!
//! | file | knows | does not know |
//! |---|---|---|
//! | `client` | connecting, timeouts, one query at a time | tables |
//! | `query` | tables and columns, rows to values | sockets |
//! | `field` | leaf bytes and angles to a [`Delivery`](crate::Delivery), pure | SQL |
//! | `explain` | each refusal in one sentence with a hint, pure | what was asked |
//!
//! # Source
//! Tables, columns and units as PyMedPhys 0.41 reads them (`pymedphys._mosaiq`); vendor's documents are not public.

mod client;
mod explain;
mod field;
mod query;
mod row;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use serde::Serialize;

pub use crate::align::Treatment;
pub use client::Mosaiq;
pub use field::{Field, FieldPoint};

/// Where a Mosaiq is and how to log in.
#[derive(Clone)]
pub struct Server {
    /// Host name or address.
    pub host: String,
    /// Port of the SQL Server, if no instance is named.
    pub port: u16,
    /// Named instance; its port is asked from the browser service of the host.
    pub instance: Option<String>,
    /// UDP port of that service; 1434 everywhere but behind tunnels.
    pub browser_port: u16,
    /// Database.
    pub database: String,
    /// What is encrypted.
    pub encryption: Encryption,
    /// Whose certificates are believed.
    pub trust: Trust,
    /// Who we are.
    pub login: Login,
    /// For connecting and logging in.
    pub connect_timeout: Duration,
    /// For one query with all its rows.
    pub query_timeout: Duration,
}

/// What is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// All; a server that cannot is refused.
    Full,
    /// The login; the rest too if the server wants it.
    Login,
    /// Nothing, unless the server insists.
    None,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of authorities that the system trusts.
    System,
    /// Those, and this authority's (PEM or DER).
    Authority(PathBuf),
    /// Anybody's.
    Any,
}

/// Who logs in. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A login of SQL Server; on Windows also an account, `DOMAIN\user`.
    Password {
        /// Its name.
        user: String,
        /// Its password.
        password: String,
    },
    /// The Windows account that runs this program.
    Integrated,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password {{ user: {user:?} }}"),
            Self::Integrated => f.write_str("Integrated"),
        }
    }
}

impl Server {
    /// A server with the usual port and database, all encrypted.
    pub fn new(host: &str, login: Login) -> Self {
        Self {
            host: host.into(),
            port: 1433,
            instance: None,
            browser_port: 1434,
            database: "MOSAIQ".into(),
            encryption: Encryption::Full,
            trust: Trust::System,
            login,
            connect_timeout: Duration::from_secs(10),
            query_timeout: Duration::from_secs(60),
        }
    }

    /// How errors name it.
    pub fn peer(&self) -> String {
        match &self.instance {
            Some(instance) => format!("Mosaiq at {}\\{instance}", self.host),
            None => format!("Mosaiq at {}:{}", self.host, self.port),
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, database {}, {:?}", self.peer(), self.database, self.login)
    }
}

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// Its name.
    pub server: Option<String>,
    /// Its product, as it calls it.
    pub product: String,
    /// Its version, such as 15.0.2000.5.
    pub version: Option<String>,
    /// The database we are in.
    pub database: Option<String>,
    /// Who we are there.
    pub login: Option<String>,
    /// Whether the conversation is encrypted, as far as was asked for.
    pub rights: Vec<Right>,
    /// Its wall clock.
    pub local: NaiveDateTime,
    /// Its clock in UTC.
    pub utc: NaiveDateTime,
}

impl About {
    /// By how much its wall clock is ahead of UTC, to the nearest minute.
    pub fn utc_offset(&self) -> TimeDelta {
        let seconds = (self.local - self.utc).num_milliseconds() as f64 / 1000.0;
        TimeDelta::minutes((seconds / 60.0).round() as i64)
    }
}

/// What we may do with a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Right {
    /// Which table.
    pub table: &'static str,
    /// Whether we may read it: `None` if it is not there or hidden from us.
    pub read: Option<bool>,
    /// Whether we could change it: more than this program needs.
    pub write: bool,
}

/// A machine as Mosaiq knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Staff.Staff_ID; several entries can have one name.
    pub staff_id: i64,
    /// Staff.Last_Name, trimmed.
    pub name: String,
}

/// What Mosaiq has of a machine in a span of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Rows of TrackTreatment.
    pub n_rows: i64,
    /// Create_DtTm of the last one, the server's wall clock.
    pub last_local: Option<NaiveDateTime>,
}
