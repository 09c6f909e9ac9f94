//! Each way in which a SQL Server says no, as one sentence and what to do about it.
//!
//! The server's own words are never repeated: an error of a conversion quotes the value. Only names of tables and columns,
//! which are ours, are taken from them.

use tiberius::error::IoErrorKind;

use super::{Encryption, Server};
use crate::Error;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Finding the port of an instance and connecting.
    Dial,
    /// Agreeing on encryption, logging in, opening the database.
    Login,
    /// Asking.
    Query,
}

pub(super) fn unknown_host(server: &Server) -> Error {
    unreachable(
        server,
        "no host has this name",
        "check site.mosaiq.host, and that this computer uses the hospital's name server",
    )
}

pub(super) fn no_connection(server: &Server, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => unreachable(
            server,
            "nothing listens on this port",
            "check site.mosaiq.port; TCP/IP may be disabled in SQL Server Configuration Manager, or the server is being restarted",
        ),
        std::io::ErrorKind::TimedOut => silence(server, Stage::Dial),
        _ => unreachable(server, format!("no connection ({})", error.kind()), NETWORK),
    }
}

/// Nothing came within the time that the settings give.
pub(super) fn silence(server: &Server, stage: Stage) -> Error {
    match stage {
        Stage::Query => unreachable(
            server,
            format!("no whole answer within {} s", server.query_timeout.as_secs_f64()),
            "the server is busy or another program locks the table: try later, or raise site.mosaiq.query_timeout_s",
        ),
        Stage::Dial | Stage::Login => unreachable(
            server,
            format!("no answer within {} s", server.connect_timeout.as_secs_f64()),
            "a firewall may drop our packets: check host and port, and that this computer may reach them; or raise \
             site.mosaiq.connect_timeout_s",
        ),
    }
}

/// What tiberius says, in the words of an admin.
pub(super) fn refusal(server: &Server, stage: Stage, error: &tiberius::error::Error) -> Error {
    use tiberius::error::Error as E;
    match error {
        E::Server(token) => by_number(server, token.code(), token.message()),
        E::Tls(what) => by_certificate(server, what),
        E::Io { kind: IoErrorKind::TimedOut, .. } => silence(server, stage),
        E::Io { kind: IoErrorKind::ConnectionRefused, .. } => {
            no_connection(server, &IoErrorKind::ConnectionRefused.into())
        }
        E::Io { message, .. } if stage == Stage::Login && message.contains("ertificate") => {
            by_certificate(server, message)
        }
        E::Io { .. } if stage == Stage::Login => unreachable(
            server,
            "it closed the connection before we were logged in",
            "is a SQL Server behind this port? One that speaks TLS below 1.2 only needs `encrypt = \"none\"`, and one that insists on \
             encryption `encrypt = \"full\"`",
        ),
        E::Io { .. } if stage == Stage::Query => unreachable(
            server,
            "the connection broke in the middle of an answer",
            "try again; then check the network",
        ),
        E::Io { .. } => unreachable(server, "no connection", NETWORK),
        E::Protocol(what) if what.contains("encryption level") => unreachable(
            server,
            "it does not encrypt, and the settings ask for it",
            "give the server a certificate, or set site.mosaiq.encrypt to \"none\" where the network between is trusted",
        ),
        E::Conversion(_) if stage == Stage::Dial => unreachable(
            server,
            "its browser service does not know this instance or does not answer",
            "check site.mosaiq.instance, start the SQL Server Browser service there and open UDP 1434, or give the port instead",
        ),
        E::Conversion(_) | E::Encoding(_) | E::Utf8 | E::Utf16 | E::ParseInt(_) => {
            misbehaved(server, "its answer holds values of unexpected types")
        }
        _ if stage == Stage::Query => misbehaved(server, "its answer is no TDS"),
        _ => misbehaved(server, "what answers there is no SQL Server"),
    }
}

/// Numbers of SQL Server's errors, as its documentation lists them.
fn by_number(server: &Server, number: u32, message: &str) -> Error {
    let login = match &server.login {
        super::Login::Password { user, .. } => format!("the login {user:?}"),
        super::Login::Integrated => "the Windows account of this program".to_owned(),
    };
    let named =
        |kind: &str| quoted(message).map_or_else(|| format!("a {kind}"), |name| format!("{kind} {name}"));
    match number {
        18456 | 18452 | 18470 | 18486 => unreachable(
            server,
            format!("{login} is refused"),
            "check user and password; if they are right, the login may be disabled or locked, or the server takes Windows logins only",
        ),
        18487 | 18488 => unreachable(
            server,
            format!("the password of {login} has expired"),
            "let the database's admin set a new one that does not expire",
        ),
        4060 | 916 | 911 | 4064 => unreachable(
            server,
            format!("{login} cannot open the database {:?}", server.database),
            "check site.mosaiq.database; the login needs a user in that database, member of db_datareader",
        ),
        208 => Error::Unsupported {
            what: format!("a Mosaiq without {}", named("table")),
            hint: "check that site.mosaiq.database is Mosaiq's; if it is, report the version that `scp-node mosaiq check` shows",
        },
        207 => Error::Unsupported {
            what: format!("a Mosaiq without {}", named("column")),
            hint: "this version of Mosaiq has another schema: report the version that `scp-node mosaiq check` shows",
        },
        229 | 230 | 300 => unreachable(
            server,
            format!("{login} may not read {}", named("table")),
            "let the database's admin make it a member of db_datareader",
        ),
        1205 | 1222 => unreachable(
            server,
            "it gave way to another program that locks the same rows",
            "try again: such locks last seconds",
        ),
        17830 | 17809 | 10928 | 10929 => {
            unreachable(server, "it takes no more connections", "try again later; the server is at its limit")
        }
        6005 | 17142 | 976 | 978 | 983 => {
            unreachable(server, "it is being stopped, started or switched over", "try again in some minutes")
        }
        // The message may hold values: the number is enough for those who look it up.
        _ => misbehaved(server, format!("it refused the query with error {number}")),
    }
}

fn by_certificate(server: &Server, what: &str) -> Error {
    const TRUST: &str = "name the certificate of the authority that signed it in site.mosaiq.trust_ca; SQL Server makes itself one that nobody \
         signed, which only `trust_any = true` accepts (encrypted, but not proven to be the server)";
    let says = |words: &[&str]| words.iter().any(|word| what.contains(word));
    if says(&["UnknownIssuer", "CaUsedAsEndEntity", "BadSignature", "UnsupportedCertVersion"]) {
        unreachable(server, "its certificate is signed by no authority that is trusted here", TRUST)
    } else if says(&["not valid for name", "NotValidForName", "invalid dns name", "InvalidDnsName"]) {
        unreachable(
            server,
            "its certificate is for another name",
            "set site.mosaiq.host to the name that stands in the certificate",
        )
    } else if says(&["Expired", "expired", "NotValidYet", "not valid yet"]) {
        unreachable(
            server,
            "its certificate has expired or is not valid yet",
            "let the server's admin renew it; check the date of this computer",
        )
    } else if says(&["ertificate"]) {
        unreachable(server, "its certificate cannot be accepted", TRUST)
    } else if server.encryption == Encryption::None {
        unreachable(server, "it insists on TLS, and it failed", "set site.mosaiq.encrypt to \"full\"")
    } else {
        unreachable(
            server,
            "TLS failed",
            "this program speaks TLS 1.2 and newer: a SQL Server from before 2016 needs its updates, or `encrypt = \"none\"`",
        )
    }
}

const NETWORK: &str = "check the network, the firewall, and host and port in [site.mosaiq]";

fn unreachable(server: &Server, what: impl Into<String>, hint: &'static str) -> Error {
    Error::Unreachable { peer: server.peer(), what: what.into(), hint }
}

fn misbehaved(server: &Server, what: impl Into<String>) -> Error {
    Error::PeerMisbehaved { peer: server.peer(), what: what.into() }
}

/// The first name in quotes, if it can be the name of a table or column.
fn quoted(message: &str) -> Option<String> {
    let name = message.split(['\'', '"']).nth(1)?;
    let is_name = !name.is_empty()
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    is_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mosaiq::Login;

    fn server() -> Server {
        let login = Login::Password { user: "reader".into(), password: "s3cret".into() };
        Server::new("sql.example", login)
    }

    #[test]
    fn every_number_has_its_sentence_and_a_hint() {
        let cases = [
            (18456, "Login failed for user 'reader'.", "the login \"reader\" is refused"),
            (4060, "Cannot open database \"MOSAIQ\"", "cannot open the database \"MOSAIQ\""),
            (208, "Invalid object name 'TxFieldPoint'.", "a Mosaiq without table TxFieldPoint"),
            (207, "Invalid column name 'WasQAMode'.", "a Mosaiq without column WasQAMode"),
            (
                229,
                "The SELECT permission was denied on the object 'Ident', database",
                "may not read table Ident",
            ),
        ];
        for (number, message, expected) in cases {
            let error = by_number(&server(), number, message);
            assert!(error.to_string().contains(expected), "{error}");
            assert!(!error.hint().is_empty());
        }
    }

    #[test]
    fn values_in_the_servers_words_are_not_repeated() {
        for (number, message) in [
            (245, "Conversion failed when converting the nvarchar value 'Doe, John' to data type int."),
            (208, "Invalid object name 'Doe, John'."),
        ] {
            let error = by_number(&server(), number, message);
            assert!(!format!("{error} {error:?} {}", error.hint()).contains("Doe"), "{error}");
        }
    }

    #[test]
    fn certificates_are_told_apart() {
        let cases = [
            ("invalid peer certificate: UnknownIssuer", "no authority that is trusted here"),
            ("certificate not valid for name \"sql\"; it is", "for another name"),
            ("invalid peer certificate: certificate expired: verification", "expired"),
            ("peer is incompatible: ServerTlsVersionIsDisabled", "TLS failed"),
        ];
        for (what, expected) in cases {
            let error = by_certificate(&server(), what);
            assert!(error.to_string().contains(expected), "{what}: {error}");
        }
    }
}
