//! The socket loop: connects, reads, hands over, closes in order. It knows no format.
//!
//! Input: bytes of one linac. Output: the same bytes to memory, and link events. Trust: the linac may close, reset, fall silent or
//! vanish. It never sends, never resets, never closes with unread data.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::Kind;
use crate::live::{LinkEnd, LinkState};
use crate::scribe::Intake;
use crate::settings::{LinacSettings, ListenerSettings};
use crate::status::Shared;

/// One linac's reader.
pub(crate) struct Reader {
    pub(crate) linac: LinacSettings,
    pub(crate) timing: Timing,
    pub(crate) intake: Intake,
    pub(crate) shared: Arc<Shared>,
    pub(crate) stop: CancellationToken,
}

/// Times of the socket loop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    silence: Duration,
    first_wait: Duration,
    longest_wait: Duration,
    beam_off_wait: Duration,
}

impl Timing {
    pub(crate) fn new(settings: &ListenerSettings) -> Self {
        Self {
            silence: Duration::from_secs(settings.silence_s.into()),
            first_wait: Duration::from_millis(settings.reconnect_first_ms),
            longest_wait: Duration::from_secs(settings.reconnect_longest_s.into()),
            beam_off_wait: Duration::from_secs(settings.beam_off_wait_s.into()),
        }
    }
}

impl Reader {
    /// Listens until told to stop.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(self.timing);
        self.change(LinkState::Connecting, None);
        while !self.stop.is_cancelled() {
            let began = Instant::now();
            let end = match self.connect().await {
                Ok(stream) => self.read(stream).await,
                Err(end) => end,
            };
            if end == LinkEnd::Stopped {
                break;
            }
            self.change(LinkState::Connecting, Some(end));
            let wait = backoff.next(began.elapsed());
            tokio::select! {
                () = sleep(wait) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.change(LinkState::Stopped, Some(LinkEnd::Stopped));
        self.intake.queue.close();
    }

    async fn connect(&self) -> Result<TcpStream, LinkEnd> {
        let host = (self.linac.host.as_str(), self.linac.port);
        let addresses = tokio::select! {
            found = tokio::net::lookup_host(host) => found.map_err(|_| LinkEnd::UnknownHost)?,
            () = self.stop.cancelled() => return Err(LinkEnd::Stopped),
        };
        let mut end = LinkEnd::UnknownHost;
        for address in addresses {
            match self.connect_to(address).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => end = classify(&error),
                Err(_) => end = LinkEnd::Unreachable,
            }
            if self.stop.is_cancelled() {
                return Err(LinkEnd::Stopped);
            }
        }
        Err(end)
    }

    /// A connection on its way is not dropped by a stop: the linac may be sending into it already, and would be reset.
    async fn connect_to(&self, address: SocketAddr) -> Result<std::io::Result<TcpStream>, Elapsed> {
        let mut connecting = std::pin::pin!(timeout(CONNECT_TIMEOUT, connect_to(address)));
        tokio::select! {
            connected = &mut connecting => connected,
            () = self.stop.cancelled() => timeout(CONNECT_GRACE, connecting).await?,
        }
    }

    /// Reads until the link ends, and closes it.
    async fn read(&self, mut stream: TcpStream) -> LinkEnd {
        self.shared.links.add(1);
        self.intake.give(Kind::Connected, Utc::now(), b"");
        self.change(LinkState::Connected, None);
        let mut buffer = vec![0; READ_BYTES];
        let mut stop_by: Option<Instant> = None;
        let end = loop {
            if let Some(by) = stop_by
                && (!self.shared.beam_on(Utc::now()) || Instant::now() >= by)
            {
                break LinkEnd::Stopped;
            }
            tokio::select! {
                // Reading first: a stop must not cost bytes that are there.
                biased;
                read = timeout(self.timing.silence, stream.read(&mut buffer)) => match read {
                    Err(_) => break LinkEnd::Silence,
                    Ok(Ok(0)) => break LinkEnd::Fin,
                    Ok(Ok(n)) => self.take(buffer.get(..n).unwrap_or_default()),
                    Ok(Err(error)) => break classify(&error),
                },
                () = self.stop.cancelled(), if stop_by.is_none() => {
                    let wait = self.timing.beam_off_wait;
                    if self.shared.beam_on(Utc::now()) {
                        tracing::info!(linac = self.linac.name, ?wait, "iCom link stays until the beam is off");
                    }
                    stop_by = Some(Instant::now() + wait);
                }
                () = sleep(STOP_POLL), if stop_by.is_some() => {}
            }
        };
        self.close_in_order(stream, &mut buffer).await;
        self.intake.give(Kind::Disconnected, Utc::now(), end.text().as_bytes());
        end
    }

    /// `shutdown(send)`, read what still comes, close when nothing is unread: a linac that loses its listener otherwise may
    /// raise an interlock, and Mosaiq stop recording.
    async fn close_in_order(&self, mut stream: TcpStream, buffer: &mut [u8]) {
        if stream.shutdown().await.is_err() {
            return;
        }
        let until = Instant::now() + DRAIN;
        while let Ok(Ok(n)) = tokio::time::timeout_at(until, stream.read(buffer)).await {
            if n == 0 {
                return;
            }
            self.take(buffer.get(..n).unwrap_or_default());
        }
        // It goes on sending: leave just after a message, when nothing is unread.
        if let Ok(Ok(n)) = timeout(DRAIN, stream.read(buffer)).await {
            self.take(buffer.get(..n).unwrap_or_default());
        }
        while let Ok(n) = stream.try_read(buffer) {
            if n == 0 {
                return;
            }
            self.take(buffer.get(..n).unwrap_or_default());
        }
    }

    fn take(&self, bytes: &[u8]) {
        self.intake.give(Kind::Data, Utc::now(), bytes);
    }

    /// Changes the link's state; what is news is logged once.
    fn change(&self, state: LinkState, end: Option<LinkEnd>) {
        if self.shared.set_link(state, end, Utc::now()) {
            let cause = end.map_or("", LinkEnd::text);
            tracing::info!(linac = self.linac.name, ?state, cause, "iCom link");
            self.intake.give(Kind::Link, Utc::now(), cause.as_bytes());
        }
    }
}

async fn connect_to(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The system's own buffer is the last reserve; a refusal costs nothing but that.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    socket2::SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    socket.connect(address).await
}

fn classify(error: &std::io::Error) -> LinkEnd {
    match error.kind() {
        ErrorKind::ConnectionRefused => LinkEnd::Refused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => LinkEnd::Rst,
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::TimedOut
        | ErrorKind::AddrNotAvailable => LinkEnd::Unreachable,
        _ => LinkEnd::Other,
    }
}

/// Waits that double, and begin anew only after a link that lasted longer than the longest of them: a flapping link is
/// not asked more and more often.
struct Backoff {
    timing: Timing,
    wait: Duration,
}

impl Backoff {
    const fn new(timing: Timing) -> Self {
        Self { timing, wait: timing.first_wait }
    }

    fn next(&mut self, lasted: Duration) -> Duration {
        if lasted > self.timing.longest_wait {
            self.wait = self.timing.first_wait;
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(self.timing.longest_wait);
        jittered(wait)
    }
}

/// Up to a quarter more, so that 64 listeners do not return in step.
fn jittered(wait: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's hash keys are the one source of randomness it offers.
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let quarter_ms = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX).max(1);
    wait + Duration::from_millis(random % quarter_ms)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for a connection that is being made; no linac nearby answers later.
const CONNECT_GRACE: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long after `shutdown` the linac's own close is waited for.
const DRAIN: Duration = Duration::from_secs(2);
const STOP_POLL: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 64 * 1024;
/// 30 seconds of a linac's stream.
const RECEIVE_BUFFER: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_in_which_a_link_fails_is_told_apart() {
        use ErrorKind as K;
        let cases = [
            (K::ConnectionRefused, LinkEnd::Refused),
            (K::ConnectionReset, LinkEnd::Rst),
            (K::ConnectionAborted, LinkEnd::Rst),
            (K::BrokenPipe, LinkEnd::Rst),
            (K::HostUnreachable, LinkEnd::Unreachable),
            (K::NetworkUnreachable, LinkEnd::Unreachable),
            (K::NetworkDown, LinkEnd::Unreachable),
            (K::TimedOut, LinkEnd::Unreachable),
            (K::AddrNotAvailable, LinkEnd::Unreachable),
            (K::PermissionDenied, LinkEnd::Other),
        ];
        for (kind, end) in cases {
            assert_eq!(classify(&kind.into()), end, "{kind}");
        }
        let texts = cases.map(|(_, end)| end.text());
        let different: std::collections::BTreeSet<_> = texts.into_iter().collect();
        assert_eq!(different.len(), 4, "each has its own words");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_lasting_link() {
        let timing = Timing::new(&ListenerSettings::default());
        let mut backoff = Backoff::new(timing);
        let within = |wait: Duration, s: u64| (s * 1000..=s * 1250).contains(&(wait.as_millis() as u64));
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(within(backoff.next(Duration::from_secs(3)), expected));
        }
        assert!(within(backoff.next(Duration::from_secs(61)), 1));
    }
}
