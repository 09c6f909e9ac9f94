//! Passwords in the settings: where they come from, and that they are never shown.
//!
//! Input: `password = "…"`, or a table that says where the password lies: `{ env = "NAME" }`, `{ file = "PATH" }`,
//! `{ credential = "NAME" }` (the system's key store: Windows' Credential Manager, systemd's credentials),
//! `{ command = ["PROGRAM", "ARGUMENT"] }` (any other key store that has a program to ask it). Output: the password, only from [`Secret::reveal`]. Trust: the settings file is the admin's; what
//! the places hold is bounded. Neither `Debug` nor serialization ever holds a password that stands in the settings.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wrong;
use crate::error::{Error, Result};

/// No password is longer; a longer file is another file.
const LONGEST_BYTES: u64 = 4096;
/// A key store that has not answered by then waits for a person.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);
/// What stands for a password wherever settings are printed.
const MASK: &str = "********";

/// A password, or where it is kept.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// In the settings themselves; printed as asterisks.
    Plain(String),
    /// Kept elsewhere, read when it is needed.
    Kept(Place),
}

/// Where a password is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// An environment variable.
    Env(String),
    /// A file that holds nothing else; one line ending at its end is dropped.
    File(PathBuf),
    /// In the system's key store. Linux: a credential of the systemd unit (`LoadCredentialEncrypted=NAME:PATH`). Windows: the
    /// generic credential NAME of the account that runs this, in the Credential Manager.
    Credential(String),
    /// A program that prints it, such as `secret-tool lookup …` or PowerShell's `Get-Secret`.
    Command(Vec<String>),
}

impl Secret {
    /// The password.
    ///
    /// # Arguments
    /// * `key` — the dotted key that errors name
    /// # Errors
    /// [`Error::Settings`] with the key and the place, never with what was found there; [`Error::Io`] for a file.
    pub fn reveal(&self, key: &str) -> Result<String> {
        match self {
            Self::Plain(password) => Ok(password.clone()),
            Self::Kept(place) => place.read(key),
        }
    }

    pub(super) fn check(&self, key: &str) -> Result<()> {
        let empty = match self {
            Self::Plain(password) => password.is_empty(),
            Self::Kept(Place::Env(name) | Place::Credential(name)) => name.is_empty(),
            Self::Kept(Place::File(path)) => path.as_os_str().is_empty(),
            Self::Kept(Place::Command(words)) => words.first().is_none_or(String::is_empty),
        };
        if empty {
            let what = "is empty: give the password or { env = \"NAME\" }, { file = \"PATH\" }, { credential = \"NAME\" } \
                        or { command = [\"PROGRAM\", …] }";
            return Err(wrong(key, what.into()));
        }
        match self {
            Self::Kept(Place::Credential(name)) if Path::new(name).components().count() != 1 => {
                Err(wrong(key, format!("`{name}` is a path: a credential has a plain name")))
            }
            _ => Ok(()),
        }
    }
}

impl Place {
    fn read(&self, key: &str) -> Result<String> {
        match self {
            Self::Env(name) => {
                std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
                    wrong(
                        key,
                        format!(
                            "the environment variable {name} is not set (or no text): set it for the account that runs this"
                        ),
                    )
                })
            }
            Self::File(path) => from_file(path, key),
            Self::Credential(name) => from_key_store(name, key),
            Self::Command(words) => from_command(words, key),
        }
    }
}

fn from_file(path: &Path, key: &str) -> Result<String> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    password(bytes).map_err(|what| wrong(key, format!("{}: {what}", path.display())))
}

#[cfg(not(windows))]
fn from_key_store(name: &str, key: &str) -> Result<String> {
    /// Where systemd puts the credentials of a unit, decrypted.
    const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
    match std::env::var_os(DIRECTORY) {
        Some(directory) => from_file(&Path::new(&directory).join(name), key),
        None => Err(wrong(
            key,
            format!(
                "there are no credentials: the systemd unit needs LoadCredentialEncrypted={name}:PATH (`systemd-creds encrypt` \
                 makes the file); outside of a unit use `file`"
            ),
        )),
    }
}

#[cfg(windows)]
fn from_key_store(name: &str, key: &str) -> Result<String> {
    use keyring_core::api::CredentialStoreApi as _;
    // The library's message may hold what it found: only which kind of failure it was is told.
    let ask = || {
        let store = windows_native_keyring_store::Store::new()?;
        store.build("", "", Some(&std::collections::HashMap::from([("target", name)])))?.get_password()
    };
    let what = match ask() {
        Ok(found) => {
            return password(found.into_bytes())
                .map_err(|what| wrong(key, format!("credential {name}: {what}")));
        }
        Err(keyring_core::Error::NoEntry) => "there is none",
        Err(keyring_core::Error::BadEncoding(_)) => "it is not text",
        Err(_) => "the Credential Manager does not give it",
    };
    let how = format!("`cmdkey /generic:{name} /user:LOGIN /pass` as the account that runs this");
    Err(wrong(key, format!("credential {name}: {what}; enter it with {how}")))
}

fn from_command(words: &[String], key: &str) -> Result<String> {
    let failed = |what: String| {
        let program = words.first().map_or("", String::as_str);
        wrong(key, format!("{program}: {what}; run the command by hand as the account that runs this"))
    };
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed("no command".into()));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What a key store says may hold more than we want in a log.
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(e.to_string()))?;
    let stdout = child.stdout.take();
    // Read beside the wait: a program that prints more than a pipe holds would never end.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.map(|out| out.take(LONGEST_BYTES + 1).read_to_end(&mut bytes)).transpose().map(|_| bytes)
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|e| failed(e.to_string()))? {
            Some(status) => break status,
            None if started.elapsed() > COMMAND_TIMEOUT => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("no answer within {} s", COMMAND_TIMEOUT.as_secs())));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        return Err(failed(format!("it failed ({status})")));
    }
    let bytes = reader
        .join()
        .map_err(|_| failed("its output could not be read".into()))?
        .map_err(|e| failed(e.to_string()))?;
    password(bytes).map_err(|what| failed(what.into()))
}

/// One line of text without its ending.
fn password(bytes: Vec<u8>) -> Result<String, &'static str> {
    if bytes.len() as u64 > LONGEST_BYTES {
        return Err("holds more than a password");
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    match line {
        "" => Err("is empty"),
        line if line.contains(['\n', '\r', '\0']) => Err("holds more than one line"),
        line => Ok(line.to_owned()),
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str(MASK),
            Self::Kept(place) => place.fmt(f),
        }
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(_) => serializer.serialize_str(MASK),
            Self::Kept(place) => place.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde's message for an untagged enum would not say what is expected, and could hold the password.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Plain(String),
            Kept(Place),
            Other(serde::de::IgnoredAny),
        }
        match Either::deserialize(deserializer)? {
            Either::Plain(password) => Ok(Self::Plain(password)),
            Either::Kept(place) => Ok(Self::Kept(place)),
            Either::Other(_) => Err(serde::de::Error::custom(
                "expected the password in quotes, or { env = \"NAME\" }, { file = \"PATH\" }, { credential = \"NAME\" } \
                 or { command = [\"PROGRAM\", …] }",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Holder {
        password: Secret,
    }

    fn read(toml: &str) -> Result<Holder, toml::de::Error> {
        toml::from_str(toml)
    }

    fn reveal(toml: &str) -> Result<String> {
        read(toml).unwrap().password.reveal("site.mosaiq.password")
    }

    fn file_with(bytes: &[u8]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, bytes).unwrap();
        let toml = toml::to_string(&Holder { password: Secret::Kept(Place::File(path)) }).unwrap();
        (dir, toml)
    }

    #[test]
    fn a_password_in_the_settings_is_used_and_never_shown() {
        let holder = read("password = 'tr0ub4dor'").unwrap();
        assert_eq!(holder.password.reveal("k").unwrap(), "tr0ub4dor");
        for shown in [format!("{holder:?}"), toml::to_string(&holder).unwrap()] {
            assert!(!shown.contains("tr0ub4dor") && shown.contains(MASK), "{shown}");
        }
    }

    #[test]
    fn a_place_is_shown_as_it_is() {
        for toml in ["env = \"A\"", "file = \"/a\"", "credential = \"a\"", "command = [\"a\", \"b\"]"] {
            let shown = toml::to_string(&read(&format!("password = {{ {toml} }}")).unwrap()).unwrap();
            assert!(shown.contains(toml), "{shown}");
        }
    }

    #[test]
    fn a_file_gives_its_one_line() {
        for (bytes, expected) in
            [(&b"pa ss\n"[..], "pa ss"), (b"pa\r\n", "pa"), (b"\xef\xbb\xbfpa", "pa"), (b" pa ", " pa ")]
        {
            let (_dir, toml) = file_with(bytes);
            assert_eq!(reveal(&toml).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_no_password_is_refused_without_being_shown() {
        for (bytes, what) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"secret1\nsecret2\n", "more than one line"),
            (b"secret\xff", "UTF-8"),
            (&[b's'; 5000], "more than a password"),
        ] {
            let (_dir, toml) = file_with(bytes);
            let error = reveal(&toml).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("site.mosaiq.password"), "{error}");
            assert!(!error.contains("secret") && !error.contains("ssss"), "{error}");
        }
    }

    #[test]
    fn a_key_store_is_asked_by_its_program() {
        // The compiler that builds this is the one program that is there on every system.
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        let toml = |argument: &str| format!("password = {{ command = ['{rustc}', '{argument}'] }}");
        assert!(reveal(&toml("--version")).unwrap().starts_with("rustc "));
        assert!(reveal(&toml("--no-such-option")).unwrap_err().to_string().contains("failed"));
        assert!(reveal(&toml("--help")).unwrap_err().to_string().contains("more than"));
        let absent = reveal("password = { command = ['/no/such/program'] }").unwrap_err().to_string();
        assert!(absent.contains("/no/such/program") && absent.contains("by hand"), "{absent}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let cases = [
            ("password = { env = 'SCP_NODE_TEST_NOT_SET' }", "SCP_NODE_TEST_NOT_SET is not set"),
            (
                "password = { credential = 'scp-node-test-not-there' }",
                if cfg!(windows) {
                    "cmdkey /generic:scp-node-test-not-there"
                } else {
                    "LoadCredentialEncrypted="
                },
            ),
        ];
        for (toml, what) in cases {
            let error = reveal(toml).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        for toml in ["password = 5", "password = { evn = 'A' }", "password = ['a']"] {
            let error = read(toml).unwrap_err().to_string();
            assert!(error.contains("{ env = \"NAME\" }"), "{error}");
        }
        for toml in ["password = ''", "password = { command = [] }", "password = { credential = '../a' }"] {
            assert!(read(toml).unwrap().password.check("site.mosaiq.password").is_err(), "{toml}");
        }
    }
}
