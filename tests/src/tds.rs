//! A small SQL Server for tests: TDS 7.x over a socket, rows from SQLite. It stands in for Mosaiq's database, which nobody can
//! install here, and serves tiberius, pymssql and FreeTDS alike.
//!
//! What it does: PRELOGIN, LOGIN7 with a password check, SQL batches, `sp_executesql` with parameters, results of several
//! packets, the errors of a missing table or column, of a denied table and of a wrong login, no TLS, TLS for the login
//! only or for all. What it does not: cursors, several result sets, T-SQL beyond what `sql` rewrites.
//!
//! The tables' declared types decide what is sent: `int`, `bigint`, `bit`, `float`, `decimal(p,s)`, `datetime`, `nvarchar(n)`,
//! `varbinary(n)`. Times are stored as text, `YYYY-MM-DD HH:MM:SS.mmm`.

mod login;
mod request;
mod result;
mod sql;
mod tables;
mod tls;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;

use login::Greeting;
use request::Request;
use wire::Wire;

pub use request::Parameter;
pub use tables::mosaiq_tables;
pub use tls::Certificate;

/// A login of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl Login {
    /// A login.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

/// What the server encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// It cannot.
    #[default]
    None,
    /// The login; more if the client wants it.
    Login,
    /// It insists on all.
    Full,
}

/// Where the server falls silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// It accepts and says nothing.
    Connect,
    /// It never answers a query on TrackTreatment.
    Query,
    /// It closes the connection in the middle of the answer to a query on TrackTreatment.
    Cut,
}

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may log in.
    pub login: Login,
    /// The one database.
    pub database: String,
    /// What is encrypted.
    pub encryption: Encryption,
    /// With what.
    pub certificate: Option<Certificate>,
    /// The zone of its wall clock.
    pub time_zone: chrono_tz::Tz,
    /// Tables that the login may not read.
    pub denied: Vec<String>,
    /// Where it falls silent.
    pub stall: Option<Stall>,
    /// Number and words of the error with which it answers queries on TrackTreatment.
    pub refusal: Option<(u32, String)>,
    /// Where it sends those who log in to read, as an availability group does.
    pub route: Option<SocketAddr>,
}

impl Options {
    /// A server without encryption whose clock shows UTC.
    pub fn new(login: Login) -> Self {
        Self {
            login,
            database: "MOSAIQ".into(),
            encryption: Encryption::None,
            certificate: None,
            time_zone: chrono_tz::UTC,
            denied: Vec::new(),
            stall: None,
            refusal: None,
            route: None,
        }
    }
}

/// A statement that a client sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// Its text.
    pub sql: String,
    /// Its parameters, by name.
    pub parameters: Vec<(String, Parameter)>,
    /// Whether the client had said that it only reads.
    pub read_only: bool,
    /// Whether it came encrypted.
    pub encrypted: bool,
}

/// The server; it ends with its value.
#[derive(Debug)]
pub struct TdsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    options: Options,
    rows: Mutex<Connection>,
    statements: Mutex<Vec<Statement>>,
    sockets: Mutex<Vec<TcpStream>>,
    n_logins: Mutex<usize>,
    stopped: AtomicBool,
}

impl TdsServer {
    /// Serves the tables of `rows` to one login.
    pub fn start(rows: Connection, login: Login) -> Self {
        Self::start_with(rows, Options::new(login))
    }

    /// Serves the tables of `rows`.
    pub fn start_with(rows: Connection, options: Options) -> Self {
        sql::register(&rows, &options).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            options,
            rows: Mutex::new(rows),
            statements: Mutex::default(),
            sockets: Mutex::default(),
            n_logins: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let for_all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if for_all.stopped.load(Ordering::SeqCst) {
                    break;
                }
                for_all.sockets.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&for_all);
                // A connection that breaks is the client's affair.
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every statement that was sent so far.
    pub fn statements(&self) -> Vec<Statement> {
        self.shared.statements.lock().unwrap().clone()
    }

    /// How often somebody logged in.
    pub fn n_logins(&self) -> usize {
        *self.shared.n_logins.lock().unwrap()
    }

    /// Changes its tables.
    pub fn with_rows<T>(&self, change: impl FnOnce(&Connection) -> T) -> T {
        change(&self.shared.rows.lock().unwrap())
    }

    /// Closes all connections, as a restarted server or a firewall does.
    pub fn cut(&self) {
        for socket in self.shared.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for TdsServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if shared.options.stall == Some(Stall::Connect) {
        return wait_for_end(stream);
    }
    let mut wire = Wire::new(stream);
    let Some(greeting) = login::greet(&mut wire, &shared.options)? else { return Ok(()) };
    *shared.n_logins.lock().unwrap() += 1;
    while let Some((kind, message)) = wire.read_message()? {
        let request = match Request::parse(kind, &message) {
            Some(request) => request,
            None => Request::Unknown,
        };
        answer(&mut wire, &request, &greeting, shared)?;
    }
    Ok(())
}

fn answer(wire: &mut Wire, request: &Request, greeting: &Greeting, shared: &Shared) -> io::Result<()> {
    let (sql, parameters, is_call) = match request {
        Request::Attention => return wire.write_message(&result::attention()),
        Request::Batch { sql } => (sql, &[][..], false),
        Request::Call { sql, parameters } => (sql, parameters.as_slice(), true),
        Request::Unknown => {
            let error = result::error(2812, 16, "Could not find stored procedure.");
            return wire.write_message(&[error, result::done(true, 0, false)].concat());
        }
    };
    shared.statements.lock().unwrap().push(Statement {
        sql: sql.clone(),
        parameters: parameters.to_vec(),
        read_only: greeting.read_only,
        encrypted: wire.is_encrypted(),
    });
    let is_about_treatments = sql.to_lowercase().contains("tracktreatment");
    if let Some((number, what)) = shared.options.refusal.as_ref().filter(|_| is_about_treatments) {
        return wire
            .write_message(&[result::error(*number, 16, what), result::done(true, 0, is_call)].concat());
    }
    match shared.options.stall.filter(|_| is_about_treatments) {
        Some(Stall::Query) => return wait_for_end(wire.stream().try_clone()?),
        Some(Stall::Cut) => {
            let answer = sql::run(&shared.rows.lock().unwrap(), sql, parameters, is_call, &shared.options);
            wire.write_first_half(&answer)?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        _ => {}
    }
    let answer = sql::run(&shared.rows.lock().unwrap(), sql, parameters, is_call, &shared.options);
    wire.write_message(&answer)
}

/// Takes what comes, until the other side has enough.
fn wait_for_end(mut stream: TcpStream) -> io::Result<()> {
    let mut sink = [0; 512];
    while io::Read::read(&mut stream, &mut sink)? > 0 {}
    Ok(())
}
