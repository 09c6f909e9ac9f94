//! The built-in SMB client: one connection to one share, read only.
//!
//! Each call to the server is watched: what makes no progress for [`SILENCE`] counts as a cut connection, which the caller answers by
//! opening a new source and going on where it stopped.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use smb::connection::EncryptionMode;
use smb::{
    Client, ClientConfig, ConnectionConfig, DirAccessMask, Directory, File, FileAccessMask, FileCreateArgs,
    FileDirectoryInformation, Resource, UncPath,
};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::explain::{Doing, NO_SUCH_FILE, explain, status};
use super::{ReadError, Remote, Share, Sink, SmbAddress, check_count, fits};
use crate::error::{Error, Result};

/// A host on the hospital's network, or a tunnel, answers far sooner.
const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a connection is as good as cut. A linac's share under load answers within a second or two.
const SILENCE: Duration = Duration::from_secs(20);
/// One read. A round trip costs about 44 ms whatever its size, so large ones.
const CHUNK_BYTES: u32 = 1 << 20;
/// Reads on their way at once. With eight, two of seventy copies stalled.
const IN_FLIGHT: usize = 4;

/// An open directory of a share, by the built-in client.
pub struct SmbSource {
    client: Client,
    root: UncPath,
    address: SmbAddress,
    peer: String,
    chunk_bytes: u32,
    cancel: CancellationToken,
    runtime: Option<Runtime>,
}

impl fmt::Debug for SmbSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmbSource").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl SmbSource {
    pub(super) fn open(address: &SmbAddress, cancel: &CancellationToken) -> Result<Self> {
        let peer = Share::Smb(address.clone()).to_string();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::io(&peer, error))?;
        let root = UncPath::new(&address.host)
            .and_then(|path| path.with_share(&address.share))
            .map_err(|_| {
                Error::misuse(format!("{peer}: `nss_host` and `nss_share` are plain names"))
                    .with_hint("put what follows the share's name into nss_directory")
            })?
            .with_path(address.directory.trim_matches(['/', '\\']));
        let mut source = Self {
            client: Client::new(config(address)),
            root,
            address: address.clone(),
            peer,
            chunk_bytes: CHUNK_BYTES,
            cancel: cancel.clone(),
            runtime: Some(runtime),
        };
        source.run(source.reach())?;
        source.run(source.enter())?;
        source.chunk_bytes = source.run(source.agreed_chunk())?;
        // A handle says goodbye when it is dropped, which needs the runtime: never outside of `run`.
        source.run(async { source.directory().await.map(drop) })?;
        Ok(source)
    }

    /// Runs one call to its end, or until somebody wants to stop.
    fn run<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(runtime) = &self.runtime else {
            return Err(self.unreachable("the connection is closed".into(), "run it again"));
        };
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(Error::misuse("stopped").with_hint("run it again: it goes on where it stopped")),
                result = call => result,
            }
        })
    }

    fn unreachable(&self, what: String, hint: &'static str) -> Error {
        Error::Unreachable { peer: self.peer.clone(), what, hint }
    }

    fn explain(&self, doing: Doing, error: &smb::Error) -> Error {
        explain(&self.peer, &self.address.user, &self.address.share, doing, error)
    }

    /// The result in time, or the sentence for silence.
    async fn in_time<T>(
        &self,
        doing: Doing,
        limit: Duration,
        call: impl Future<Output = smb::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, call).await {
            Ok(result) => result.map_err(|error| self.explain(doing, &error)),
            Err(_) => Err(self.silent(doing, limit)),
        }
    }

    fn silent(&self, doing: Doing, limit: Duration) -> Error {
        let what = format!("the share fell silent: nothing for {} s while {}", limit.as_secs(), doing.verb());
        self.unreachable(what, "check the network; run it again: it goes on where it stopped")
    }

    /// Tells an unknown host from a closed port from one that does not answer: the client's own errors do not.
    async fn reach(&self) -> Result<()> {
        let (host, port) = (self.address.host.trim_matches(['[', ']']), self.address.port);
        let unknown = || {
            let what = format!("the host `{host}` is unknown");
            self.unreachable(what, "check nss_host and the name service, or give the address in numbers")
        };
        let addresses = tokio::time::timeout(CONNECT, lookup_host((host, port)))
            .await
            .map_err(|_| unknown())?
            .map_err(|_| unknown())?;
        let mut last = unknown();
        for address in addresses {
            last = match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => self.unreachable(
                    format!("nothing listens on port {port} of {host}"),
                    "check that the share is on and nss_port is right; if it is a tunnel, that it is up",
                ),
                Ok(Err(error)) => self.unreachable(
                    format!("cannot connect to port {port} of {host}: {error}"),
                    "check the network and the firewall",
                ),
                Err(_) => self.unreachable(
                    format!("no answer from port {port} of {host} within {} s", CONNECT.as_secs()),
                    "check that the share is on, the network, and the firewall in between",
                ),
            };
        }
        Err(last)
    }

    async fn enter(&self) -> Result<()> {
        let SmbAddress { user, password, .. } = &self.address;
        let share = self.root.clone().with_no_path();
        self.in_time(Doing::Entering, SILENCE, self.client.share_connect(&share, user, password.0.clone()))
            .await
    }

    /// What the server lets be read at a time, at most [`CHUNK_BYTES`].
    async fn agreed_chunk(&self) -> Result<u32> {
        let connection =
            self.in_time(Doing::Entering, SILENCE, self.client.get_connection(self.root.server())).await?;
        let agreed = connection.conn_info().map_or(0, |info| info.negotiation.max_read_size);
        // 64 KiB is what SMB 2.0.2 always allows.
        Ok(if agreed == 0 { 1 << 16 } else { agreed.min(CHUNK_BYTES) })
    }

    async fn directory(&self) -> Result<Directory> {
        let access = DirAccessMask::new().with_list_directory(true).with_synchronize(true);
        let arguments = FileCreateArgs::make_open_existing(access.into());
        match self.in_time(Doing::Listing, SILENCE, self.client.create_file(&self.root, &arguments)).await? {
            Resource::Directory(directory) => Ok(directory),
            _ => Err(self.unreachable("nss_directory is no directory".into(), "check nss_directory")),
        }
    }

    pub(super) fn list(&mut self, pattern: &str) -> Result<Vec<Remote>> {
        self.run(async {
            let directory = Arc::new(self.directory().await?);
            let query = Directory::query::<FileDirectoryInformation>(&directory, pattern);
            let mut entries = match tokio::time::timeout(SILENCE, query).await {
                Ok(Ok(entries)) => entries,
                Ok(Err(error)) if status(&error) == Some(NO_SUCH_FILE) => return Ok(Vec::new()),
                Ok(Err(error)) => return Err(self.explain(Doing::Listing, &error)),
                Err(_) => return Err(self.silent(Doing::Listing, SILENCE)),
            };
            let mut found = Vec::new();
            loop {
                let next = tokio::time::timeout(SILENCE, entries.next());
                let entry = match next.await.map_err(|_| self.silent(Doing::Listing, SILENCE))? {
                    None => return Ok(found),
                    Some(Err(error)) if status(&error) == Some(NO_SUCH_FILE) => return Ok(found),
                    Some(Err(error)) => return Err(self.explain(Doing::Listing, &error)),
                    Some(Ok(entry)) => entry,
                };
                let name = entry.file_name.to_string();
                // Servers read the pattern in their own ways, and a hostile one sends what it likes.
                let plain = !name.contains(['/', '\\', '\0']) && fits(pattern, &name);
                if plain && !entry.file_attributes.directory() {
                    let time: std::time::SystemTime = entry.last_write_time.into();
                    let modified = (!entry.last_write_time.is_zero()).then(|| DateTime::<Utc>::from(time));
                    found.push(Remote { name, bytes: entry.end_of_file, modified });
                    check_count(found.len())?;
                }
            }
        })
    }

    pub(super) fn read(
        &mut self,
        name: &str,
        from: u64,
        to: u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), ReadError> {
        let mut sunk = None;
        let result = self.run(self.read_all(name, from, to, &mut |part| {
            sink(part).map_err(|error| {
                sunk = Some(error);
                // Never seen: `sunk` takes its place.
                Error::misuse("the bytes were not taken")
            })
        }));
        match (result, sunk) {
            (_, Some(error)) => Err(ReadError::Sink(error)),
            (Err(error), None) => Err(ReadError::Source(error)),
            (Ok(()), None) => Ok(()),
        }
    }

    /// Keeps [`IN_FLIGHT`] reads on their way and hands them on in order.
    async fn read_all(&self, name: &str, from: u64, to: u64, sink: &mut Sink<'_>) -> Result<()> {
        let path = self.root.clone().with_add_path(name);
        let access = FileAccessMask::new().with_generic_read(true);
        let arguments = FileCreateArgs::make_open_existing(access);
        let opened =
            self.in_time(Doing::Reading, SILENCE, self.client.create_file(&path, &arguments)).await?;
        let Resource::File(file) = opened else {
            return Err(self.unreachable("what is listed as a file is none".into(), "check the share"));
        };
        let file = Arc::new(file);
        let mut reads = Reads::default();
        let mut next = from;
        loop {
            while next < to && reads.0.len() < IN_FLIGHT {
                let bytes = u32::try_from(to - next).unwrap_or(u32::MAX).min(self.chunk_bytes);
                reads.0.push_back(tokio::spawn(chunk(Arc::clone(&file), next, bytes)));
                next += u64::from(bytes);
            }
            let Some(read) = reads.0.front_mut() else { break };
            let ended = tokio::time::timeout(SILENCE, read).await;
            reads.0.pop_front();
            let part = ended
                .map_err(|_| self.silent(Doing::Reading, SILENCE))?
                .map_err(|error| self.explain(Doing::Reading, &error.into()))?
                .map_err(|error| match error.kind() {
                    ErrorKind::UnexpectedEof => self.unreachable(
                        "the file ended early: it was cut or replaced meanwhile".into(),
                        "run it again",
                    ),
                    _ => self.explain(Doing::Reading, &smb::Error::IoError(error)),
                })?;
            sink(&part)?;
        }
        // A close that fails costs nothing: all bytes are here.
        let _ = tokio::time::timeout(SILENCE, file.close()).await;
        Ok(())
    }
}

/// Reads on their way; none outlives its file.
#[derive(Default)]
struct Reads(VecDeque<JoinHandle<std::io::Result<Vec<u8>>>>);

impl Drop for Reads {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn chunk(file: Arc<File>, at: u64, bytes: u32) -> std::io::Result<Vec<u8>> {
    let mut part = vec![0; bytes as usize];
    let mut filled = 0;
    while let Some(rest) = part.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_block(rest, at + filled as u64, None, false).await? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            got => filled += got,
        }
    }
    Ok(part)
}

impl Drop for SmbSource {
    /// Says goodbye if the server still listens; a server that does not is left.
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        let client = std::mem::replace(&mut self.client, Client::new(ClientConfig::default()));
        runtime.block_on(async {
            let _ = tokio::time::timeout(Duration::from_secs(2), client.close()).await;
            drop(client);
        });
        runtime.shutdown_background();
    }
}

fn config(address: &SmbAddress) -> ClientConfig {
    ClientConfig {
        // A share of a linac is no part of a distributed file system, and a tunnel must not be left.
        dfs: false,
        connection: ConnectionConfig {
            port: Some(address.port),
            timeout: Some(SILENCE),
            encryption_mode: if address.encrypt { EncryptionMode::Required } else { EncryptionMode::Allowed },
            // What the linac changes is of no interest; one channel less to go wrong.
            disable_notifications: true,
            ..ConnectionConfig::default()
        },
        ..ClientConfig::default()
    }
}
