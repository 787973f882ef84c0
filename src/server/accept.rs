//! The accept loop: how many connections, what their sockets are set to, and which never speak.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Options;

/// Wait after a failed accept. Without it, running out of file descriptors would spin a core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(250);
/// Silence of a peer after which the system probes it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How often to look for the rest of a greeting that came in pieces.
const GREETING_POLL: Duration = Duration::from_millis(50);
/// Length of the preface that opens every HTTP/2 connection.
const GREETING_BYTES: usize = 24;
/// Connections that have greeted and wait to be served.
const READY_CONNECTIONS: usize = 64;

/// The connections of a listener, each after its first bytes, until `stop`.
pub(super) fn connections(
    listener: TcpListener,
    options: &Options,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let (sender, receiver) = mpsc::channel(READY_CONNECTIONS);
    let acceptor = Acceptor {
        slots: Arc::new(Semaphore::new(options.max_connections)),
        greeting_timeout: options.greeting_timeout,
        ready: sender,
    };
    tokio::spawn(async move { stop.run_until_cancelled(acceptor.run(&listener, &stop)).await });
    ReceiverStream::new(receiver)
}

struct Acceptor {
    slots: Arc<Semaphore>,
    greeting_timeout: Duration,
    ready: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    async fn run(&self, listener: &TcpListener, stop: &CancellationToken) {
        loop {
            let slot = self.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => self.greet(Connection { stream, _slot: slot }, stop.clone()),
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
    fn greet(&self, connection: Connection, stop: CancellationToken) {
        let (limit, ready) = (self.greeting_timeout, self.ready.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            match timeout(limit, connection.greeted()).await {
                Ok(Ok(())) => _ = ready.send(Ok(connection)).await,
                Ok(Err(error)) => tracing::debug!(%error, "connection lost before it spoke"),
                Err(_) => tracing::debug!("connection closed because it did not speak"),
            }
        }));
    }
}

/// Whether a failed accept concerns one peer only, and the next accept may well succeed.
fn of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A TCP connection that holds its slot among the connections allowed.
pub(super) struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// Sets up the socket and waits until the peer has sent a whole HTTP/2 preface, or something as
    /// long that is none and gets its answer from the transport.
    async fn greeted(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        SockRef::from(&self.stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
        let mut greeting = [0; GREETING_BYTES];
        loop {
            match self.stream.peek(&mut greeting).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                GREETING_BYTES => return Ok(()),
                _ => sleep(GREETING_POLL).await,
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
