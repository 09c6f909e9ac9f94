//! A small Mosaiq for the tests: one machine under two names, a second one, and rows with everything that can be odd.

use chrono::NaiveDateTime;
use rusqlite::Connection;
use tests::tds::{Login, TdsServer, mosaiq_tables};
use trf_core::mosaiq::{self as client_side, Mosaiq, Server};

pub(crate) const USER: &str = "reader";
pub(crate) const PASSWORD: &str = "pa$$ wörd 'x";

pub(crate) fn at(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap()
}

pub(crate) fn login() -> Login {
    Login::new(USER, PASSWORD)
}

/// How a client reaches a server without encryption.
pub(crate) fn server(tds: &TdsServer) -> Server {
    let login = client_side::Login::Password { user: USER.into(), password: PASSWORD.into() };
    Server { port: tds.port(), encryption: client_side::Encryption::None, ..Server::new("127.0.0.1", login) }
}

pub(crate) fn client(server: Server) -> Mosaiq {
    Mosaiq::new(server)
}

/// The tables with their rows.
pub(crate) fn clinic() -> Connection {
    let rows = mosaiq_tables();
    rows.execute_batch(
        "INSERT INTO Staff VALUES (218, '4299      '), (219, ' 42 99'), (300, '2619'), (301, 'Smith');
         INSERT INTO Patient VALUES (30121, 'O''Hara   ', ' Zoë'), (30136, 'Phantom', 'VMAT'), (30137, '', NULL);
         INSERT INTO Ident VALUES (1, 30121, NULL), (2, 30121, '  PHY-1 '), (3, 30137, '   ');
         INSERT INTO TxField VALUES
            (88043, 88043, 30121, '1-1 ', ' AP   ', 13, 426.7, 0),
            (88064, 88064, 30136, '1-1', 'VMAT', 13, 150.0, 0),
            (88065, 88064, 30137, '2-1', NULL, NULL, NULL, 0);
         INSERT INTO TrackTreatment VALUES
            (1, 30121, 88043, 886571, 218, '2026-03-02 08:03:28.513', '2026-03-02 08:04:22.140', 1, 1, 1, 0, 1),
            (2, 30136, 88064, 886745, 219, '2026-03-02 09:00:00.000', '2026-03-02 09:02:00.000', 0, 1, 1, 0, 1),
            (3, 30137, 88065, NULL, 218, '2026-03-02 23:59:59.997', NULL, NULL, NULL, NULL, NULL, NULL),
            (4, 30121, 88043, 1, 300, '2026-03-02 08:03:28.513', '2026-03-02 08:04:22.140', 0, 1, 1, 0, 1),
            (5, 30121, 88043, 1, 218, '2026-03-03 00:00:00.000', '2026-03-03 00:01:00.000', 0, 1, 1, 0, 1),
            (6, 30121, 88043, 1, 218, '2026-03-01 08:00:00.000', '2026-03-02 10:00:00.000', 0, 1, 1, 0, 1),
            (7, 30121, 88043, 1, 218, '2026-03-01 23:00:00.000', '2026-03-01 23:59:00.000', 0, 1, 1, 0, 1),
            (9, 30136, 88064, 1, 218, '2026-03-01 23:58:00.000', '2026-03-02 00:01:00.000', 0, 1, 1, 0, 1);",
    )
    .unwrap();
    rows
}
