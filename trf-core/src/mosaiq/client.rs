//! One connection to the SQL Server, made when it is needed.
//!
//! A query takes the connection and gives it back when its answer is whole. So a query that failed, ran out of time or was
//! dropped half-way never leaves a connection behind in which the next one would read old rows.

use std::time::Duration;

use futures_util::TryStreamExt;
use tiberius::{AuthMethod, Client, Config, EncryptionLevel, Query, Row, SqlBrowser};
use tokio::net::TcpStream;
use tokio_util::compat::{Compat, TokioAsyncWriteCompatExt};

use super::explain::{self, Stage};
use super::{Encryption, Login, Server, Trust};
use crate::{Error, Result};

/// How the server's own tools name us.
const APPLICATION: &str = "scp-node";
/// More rows than any question of ours has: a machine has some 100 treatments a day.
const MOST_ROWS: usize = 200_000;
/// A server may send us to another one, and that one to a third; never in circles.
const MOST_ROUTINGS: usize = 3;

type Connection = Client<Compat<TcpStream>>;

/// A Mosaiq.
pub struct Mosaiq {
    server: Server,
    peer: String,
    connection: Option<Connection>,
}

impl std::fmt::Debug for Mosaiq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.server.fmt(f)
    }
}

impl Mosaiq {
    /// A Mosaiq; nothing is sent before the first question.
    pub fn new(server: Server) -> Self {
        Self { peer: server.peer(), server, connection: None }
    }

    /// A Mosaiq to which we are logged in.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with what failed (name, address, encryption, certificate, login, database) and what to check.
    pub async fn connect(server: Server) -> Result<Self> {
        let mut mosaiq = Self::new(server);
        mosaiq.connection = Some(open(&mosaiq.server).await?);
        Ok(mosaiq)
    }

    /// How errors name it.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The rows of one SELECT.
    ///
    /// Dropping the future ends the connection; the next query opens another one.
    pub(super) async fn select(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>> {
        let kept = self.connection.take();
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => open(&self.server).await?,
        };
        let mut answer = ask(&mut connection, sql, parameters, self.server.query_timeout).await;
        // A connection that was idle may have been closed meanwhile: by the server's restart, by a firewall.
        if was_kept && answer.as_ref().is_err_and(Failure::is_lost_connection) {
            connection = open(&self.server).await?;
            answer = ask(&mut connection, sql, parameters, self.server.query_timeout).await;
        }
        match answer {
            Ok(rows) => {
                self.connection = Some(connection);
                Ok(rows)
            }
            Err(failure) => Err(failure.explain(&self.server)),
        }
    }
}

/// A value of a query.
#[derive(Debug, Clone, Copy)]
pub(super) enum Parameter<'a> {
    Integer(i64),
    Text(&'a str),
    Time(chrono::NaiveDateTime),
}

/// Why there are no rows.
enum Failure {
    Server(tiberius::error::Error),
    Timeout,
    TooMany,
}

impl Failure {
    fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Server(tiberius::error::Error::Io { kind, .. }) if *kind != std::io::ErrorKind::TimedOut)
    }

    fn explain(self, server: &Server) -> Error {
        match self {
            Self::Server(error) => explain::refusal(server, Stage::Query, &error),
            Self::Timeout => explain::silence(server, Stage::Query),
            Self::TooMany => Error::Limit {
                what: "number of rows of one answer of Mosaiq",
                found: MOST_ROWS as u64 + 1,
                limit: MOST_ROWS as u64,
            },
        }
    }
}

async fn ask(
    connection: &mut Connection,
    sql: &str,
    parameters: &[Parameter<'_>],
    timeout: Duration,
) -> Result<Vec<Row>, Failure> {
    let mut query = Query::new(sql);
    for parameter in parameters {
        match *parameter {
            Parameter::Integer(n) => query.bind(n),
            Parameter::Text(text) => query.bind(text),
            Parameter::Time(time) => query.bind(time),
        }
    }
    let whole = async {
        let mut stream = query.query(connection).await.map_err(Failure::Server)?;
        let mut rows = Vec::new();
        while let Some(item) = stream.try_next().await.map_err(Failure::Server)? {
            if let Some(row) = item.into_row() {
                if rows.len() == MOST_ROWS {
                    return Err(Failure::TooMany);
                }
                rows.push(row);
            }
        }
        Ok(rows)
    };
    tokio::time::timeout(timeout, whole).await.unwrap_or(Err(Failure::Timeout))
}

async fn open(server: &Server) -> Result<Connection> {
    let opened = async {
        let mut config = config(server)?;
        let mut tcp = dial(server, &config).await?;
        for _ in 0..MOST_ROUTINGS {
            match Client::connect(config.clone(), tcp.compat_write()).await {
                // What an availability group says to those who only read.
                Err(tiberius::error::Error::Routing { host, port }) => {
                    let other = Server { host, port, instance: None, ..server.clone() };
                    config.host(&other.host);
                    config.port(port);
                    tcp = dial(&other, &config).await?;
                }
                Err(error) => return Err(explain::refusal(server, Stage::Login, &error)),
                Ok(connection) => return Ok(connection),
            }
        }
        Err(Error::PeerMisbehaved { peer: server.peer(), what: "it sends us from server to server".into() })
    };
    match tokio::time::timeout(server.connect_timeout, opened).await {
        Ok(opened) => opened,
        Err(_) => Err(explain::silence(server, Stage::Login)),
    }
}

async fn dial(server: &Server, config: &Config) -> Result<TcpStream> {
    let tcp = if server.instance.is_some() {
        TcpStream::connect_named(config)
            .await
            .map_err(|error| explain::refusal(server, Stage::Dial, &error))?
    } else {
        let addresses = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
        let addresses: Vec<_> = addresses.map_err(|_| explain::unknown_host(server))?.collect();
        TcpStream::connect(addresses.as_slice())
            .await
            .map_err(|error| explain::no_connection(server, &error))?
    };
    tcp.set_nodelay(true).map_err(|error| explain::no_connection(server, &error))?;
    Ok(tcp)
}

fn config(server: &Server) -> Result<Config> {
    let mut config = Config::new();
    config.host(&server.host);
    match &server.instance {
        Some(instance) => {
            config.instance_name(instance);
            config.port(server.browser_port);
        }
        None => config.port(server.port),
    }
    config.database(&server.database);
    config.application_name(APPLICATION);
    config.readonly(true);
    config.encryption(match server.encryption {
        Encryption::Full => EncryptionLevel::Required,
        Encryption::Login => EncryptionLevel::Off,
        Encryption::None => EncryptionLevel::NotSupported,
    });
    match &server.trust {
        Trust::System => {}
        Trust::Authority(path) => {
            // Read here: the library names no path when it cannot.
            let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
            config.trust_cert_ca_bundle(bytes);
        }
        Trust::Any => config.trust_cert(),
    }
    config.authentication(match &server.login {
        Login::Password { user, password } if user.contains('\\') => windows_account(user, password)?,
        Login::Password { user, password } => AuthMethod::sql_server(user, password),
        Login::Integrated => integrated()?,
    });
    // Both are bounded here, from the first packet to the last row.
    config.handshake_timeout(None);
    config.command_timeout(None);
    // A name that somebody pasted in half must not make a day unreadable.
    config.lossy_utf16_decoding(true);
    Ok(config)
}

#[cfg(windows)]
fn integrated() -> Result<AuthMethod> {
    Ok(AuthMethod::Integrated)
}

/// `DOMAIN\user` and its password.
#[cfg(windows)]
fn windows_account(user: &str, password: &str) -> Result<AuthMethod> {
    Ok(AuthMethod::windows(user, password))
}

#[cfg(not(windows))]
fn windows_account(_: &str, _: &str) -> Result<AuthMethod> {
    Err(Error::unsupported("logging in to Mosaiq with a Windows account from another system")
        .with_hint("name a login of the SQL Server itself, or run this program on Windows"))
}

#[cfg(not(windows))]
fn integrated() -> Result<AuthMethod> {
    Err(Error::unsupported("logging in to Mosaiq as the account that runs this program")
        .with_hint("that is for Windows: name a login of the SQL Server and its password"))
}
