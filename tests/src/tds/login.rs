//! PRELOGIN and LOGIN7 (MS-TDS §2.2.6.4, §2.2.6.5).

use std::io;
use std::net::SocketAddr;

use super::wire::{LOGIN7, PRELOGIN, Reader, Wire, b_varchar, text, us_varchar};
use super::{Encryption, Options, result, tls};

/// ENCRYPTION of PRELOGIN.
const OFF: u8 = 0;
const ON: u8 = 1;
const NOT_SUPPORTED: u8 = 2;
const REQUIRED: u8 = 3;
/// TypeFlags of LOGIN7: the client only reads.
const READ_ONLY_INTENT: u8 = 0x20;

/// What a client has said about itself.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) read_only: bool,
}

/// Takes a client in; `None` if it was turned away.
pub(super) fn greet(wire: &mut Wire, options: &Options) -> io::Result<Option<Greeting>> {
    let Some((PRELOGIN, message)) = wire.read_message()? else { return Ok(None) };
    let wanted = client_encryption(&message).unwrap_or(NOT_SUPPORTED);
    let answer = match (options.encryption, wanted) {
        (Encryption::None, _) | (Encryption::Login, NOT_SUPPORTED) => NOT_SUPPORTED,
        (Encryption::Login, OFF) => OFF,
        (Encryption::Login, _) => ON,
        (Encryption::Full, _) => REQUIRED,
    };
    wire.write_message(&prelogin(answer))?;
    let is_encrypted = answer != NOT_SUPPORTED && wanted != NOT_SUPPORTED;
    if is_encrypted {
        let certificate = options.certificate.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
        wire.start_tls(tls::server(certificate)?)?;
    } else if options.encryption == Encryption::Full {
        return Ok(None);
    }
    let Some((LOGIN7, message)) = wire.read_message()? else { return Ok(None) };
    if is_encrypted && answer == OFF {
        wire.end_tls();
    }
    let Some(login) = Login7::parse(&message) else { return Ok(None) };
    let refusal = if login.user != options.login.user || login.password != options.login.password {
        Some(vec![result::error(18456, 14, &format!("Login failed for user '{}'.", login.user))])
    } else if !login.database.is_empty() && !login.database.eq_ignore_ascii_case(&options.database) {
        let what =
            format!("Cannot open database \"{}\" requested by the login. The login failed.", login.database);
        Some(vec![
            result::error(4060, 11, &what),
            result::error(18456, 14, &format!("Login failed for user '{}'.", login.user)),
        ])
    } else {
        None
    };
    if let Some(mut tokens) = refusal {
        tokens.push(result::done(true, 0, false));
        wire.write_message(&tokens.concat())?;
        return Ok(None);
    }
    let packet_size = login.packet_size.clamp(512, 32_767);
    let route = options.route.map(route).unwrap_or_default();
    wire.write_message(&[route, welcome(&login, packet_size, &options.database)].concat())?;
    wire.set_packet_size(packet_size);
    Ok(Some(Greeting { read_only: login.read_only }))
}

fn client_encryption(message: &[u8]) -> Option<u8> {
    let mut options = Reader(message);
    loop {
        let token = *options.bytes(1)?.first()?;
        let offset = usize::from(u16::from_be_bytes(*options.bytes(2)?.first_chunk()?));
        options.bytes(2)?;
        match token {
            0xFF => return None,
            1 => return message.get(offset).copied(),
            _ => {}
        }
    }
}

fn prelogin(encryption: u8) -> Vec<u8> {
    // SQL Server 2019, 15.0.2000.
    let values: [(u8, &[u8]); 4] =
        [(0, &[15, 0, 0x07, 0xD0, 0, 0]), (1, &[encryption]), (2, &[0]), (4, &[0])];
    let mut offset = values.len() * 5 + 1;
    let mut message = Vec::new();
    for (token, value) in values {
        message.push(token);
        message.extend(u16::try_from(offset).unwrap().to_be_bytes());
        message.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        offset += value.len();
    }
    message.push(0xFF);
    message.extend(values.iter().flat_map(|(_, value)| *value));
    message
}

struct Login7 {
    tds_version: [u8; 4],
    packet_size: usize,
    user: String,
    password: String,
    database: String,
    read_only: bool,
}

impl Login7 {
    fn parse(message: &[u8]) -> Option<Self> {
        let field = |at: usize| {
            let mut place = Reader(message.get(at..)?);
            let (offset, n_units) = (place.size(2)?, place.size(2)?);
            message.get(offset..offset.checked_add(n_units * 2)?)
        };
        // Each byte's halves are swapped and xored (§2.2.6.4).
        let password: Vec<u8> = field(44)?.iter().map(|byte| (byte ^ 0xA5).rotate_left(4)).collect();
        Some(Self {
            tds_version: *message.get(4..)?.first_chunk()?,
            packet_size: Reader(message.get(8..)?).size(4)?,
            user: text(field(40)?),
            password: text(&password),
            database: text(field(68)?),
            read_only: message.get(26)? & READ_ONLY_INTENT != 0,
        })
    }
}

/// ENVCHANGE 20: go to another server (§2.2.7.9).
fn route(to: SocketAddr) -> Vec<u8> {
    let target = [vec![0], to.port().to_le_bytes().to_vec(), us_varchar(&to.ip().to_string())].concat();
    let length = u16::try_from(target.len()).unwrap().to_le_bytes();
    let body = [&[20][..], &length, &target, &[0, 0]].concat();
    [&[0xE3][..], &u16::try_from(body.len()).unwrap().to_le_bytes(), &body].concat()
}

fn welcome(login: &Login7, packet_size: usize, database: &str) -> Vec<u8> {
    let change = |kind: u8, new: Vec<u8>, old: Vec<u8>| {
        let body = [vec![kind], new, old].concat();
        [vec![0xE3], u16::try_from(body.len()).unwrap().to_le_bytes().to_vec(), body].concat()
    };
    let mut version = login.tds_version;
    version.reverse();
    let acknowledged =
        [vec![1], version.to_vec(), b_varchar("Microsoft SQL Server"), vec![15, 0, 0x07, 0xD0]].concat();
    [
        change(1, b_varchar(database), b_varchar("master")),
        change(7, [&[5][..], &result::COLLATION].concat(), vec![0]),
        [vec![0xAD], u16::try_from(acknowledged.len()).unwrap().to_le_bytes().to_vec(), acknowledged]
            .concat(),
        change(4, b_varchar(&packet_size.to_string()), b_varchar("4096")),
        result::done(false, 0, false),
    ]
    .concat()
}
