//! The pass-through port: other clients on the network get the linac's stream from us.
//!
//! Input: whole messages. Output: the same to each client, from the message after it came, to the last one before a stop; then the link is
//! closed in order. Trust: none; what a client sends is read and dropped, one that is too slow misses messages (its counter
//! shows it), one that stops reading is closed, and neither is felt by anyone else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::status::Shared;

/// Clients of one linac at a time.
const MAX_CLIENTS: usize = 16;

/// Messages that wait for a slow client: a minute at 4 Hz.
pub(crate) const CLIENT_BACKLOG: usize = 256;

/// A client that takes nothing for so long is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client's own close is waited for after ours.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Lets clients in until told to stop. They stay, in `clients`, until the last sender of messages is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    messages: broadcast::Sender<Arc<[u8]>>,
    shared: Arc<Shared>,
    clients: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match (accepted, Arc::clone(&permits).try_acquire_owned()) {
            (Ok((stream, _)), Ok(permit)) => {
                let (messages, shared) = (messages.subscribe(), Arc::clone(&shared));
                clients.spawn(async move {
                    shared.pass_through_clients.fetch_add(1, Ordering::Relaxed);
                    send_all(stream, messages, &shared).await;
                    shared.pass_through_clients.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
            }
            // Too many clients: this one is closed at once.
            (Ok(_), Err(_)) => {}
            // Out of sockets, or a client that was gone before: not faster than it can be.
            (Err(_), _) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn send_all(stream: TcpStream, mut messages: broadcast::Receiver<Arc<[u8]>>, shared: &Shared) {
    let (mut reader, mut writer) = stream.into_split();
    let mut sink = [0; 256];
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            // Unread bytes would turn our close into a reset.
            read = reader.read(&mut sink) => match read {
                Ok(n) if n > 0 => continue,
                _ => return,
            },
        };
        match message {
            Ok(message) => match tokio::time::timeout(SEND_TIMEOUT, writer.write_all(&message)).await {
                Ok(Ok(())) => {}
                _ => return,
            },
            Err(broadcast::error::RecvError::Lagged(skipped)) => shared.pass_through_skipped.add(skipped),
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    if writer.shutdown().await.is_ok() {
        let until = tokio::time::Instant::now() + CLOSE_TIMEOUT;
        while let Ok(Ok(1..)) = tokio::time::timeout_at(until, reader.read(&mut sink)).await {}
    }
}
