//! The pass-through port: other clients on the network get the linac's stream from us.
//!
//! Input: whole messages. Output: the same to each client, from the message after it came. Trust: none; a client that is too
//! slow misses messages (its counter shows it), one that stops reading is closed, and neither is felt by anyone else.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::status::Shared;

/// Clients of one linac at a time.
const MAX_CLIENTS: usize = 16;

/// Messages that wait for a slow client: a minute at 4 Hz.
pub(crate) const CLIENT_BACKLOG: usize = 256;

/// A client that takes nothing for so long is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until told to stop.
pub(crate) async fn serve(
    listener: TcpListener,
    messages: broadcast::Sender<Arc<[u8]>>,
    shared: Arc<Shared>,
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
                let (messages, shared, stop) = (messages.subscribe(), Arc::clone(&shared), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = send_all(stream, messages, &shared) => {}
                        () = stop.cancelled() => {}
                    }
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

async fn send_all(mut stream: TcpStream, mut messages: broadcast::Receiver<Arc<[u8]>>, shared: &Shared) {
    loop {
        match messages.recv().await {
            Ok(message) => match tokio::time::timeout(SEND_TIMEOUT, stream.write_all(&message)).await {
                Ok(Ok(())) => {}
                _ => return,
            },
            Err(broadcast::error::RecvError::Lagged(skipped)) => shared.pass_through_skipped.add(skipped),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
