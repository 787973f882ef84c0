//! The accept loop: how many connections there are, and which are closed because they never speak.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::greeting::Handshake;
use super::transport::{Connection, Slot};
use crate::meter::Level;

/// Wait after a failed accept. Without it, running out of file descriptors would spin a core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(250);
/// Connections that have greeted and wait to be served.
const READY_CONNECTIONS: usize = 64;

/// The connections of a listener, each after its first bytes, until `stop`.
pub(super) fn connections(
    listener: TcpListener,
    options: &Options,
    open: Level,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let (sender, receiver) = mpsc::channel(READY_CONNECTIONS);
    let acceptor = Acceptor {
        slots: Arc::new(Semaphore::new(options.max_connections)),
        open,
        greeting_timeout: options.greeting_timeout,
        handshake: Handshake::new(options.tls.clone(), options.max_handshakes),
        ready: sender,
    };
    tokio::spawn(async move { stop.run_until_cancelled(acceptor.run(&listener, &stop)).await });
    ReceiverStream::new(receiver)
}

struct Acceptor {
    slots: Arc<Semaphore>,
    /// How many connections there are.
    open: Level,
    greeting_timeout: Duration,
    handshake: Handshake,
    ready: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(&self, listener: &TcpListener, stop: &CancellationToken) {
        loop {
            let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, address)) => {
                    self.greet(stream, address, (slot, self.open.enter()), stop.clone());
                }
                Err(error) if of_one_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; is the limit of open files too low?");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Passes the connection on once its peer has spoken. Serving a silent one would hold up a
    /// graceful shutdown.
    fn greet(&self, stream: TcpStream, address: SocketAddr, slot: Slot, stop: CancellationToken) {
        let (limit, handshake, ready) = (self.greeting_timeout, self.handshake.clone(), self.ready.clone());
        let greet =
            async move { Connection::greeted(handshake.run(stream).await?, Some(address), slot).await };
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            match timeout(limit, greet).await {
                Ok(Ok(connection)) => _ = ready.send(Ok(connection)).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "connection lost before it spoke"),
                Err(_) => tracing::debug!(%address, "connection closed because it did not speak"),
            }
        }));
    }
}

/// Whether a failed accept concerns one peer only, and the next accept may well succeed.
fn of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
