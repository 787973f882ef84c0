//! A connection once its peer has spoken: its bytes, in clear or through TLS, and who it is.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::api::Peer;
use crate::meter::Present;
use crate::tls::ClientCertificate;

/// Length of the preface that opens every HTTP/2 connection.
const GREETING_BYTES: usize = 24;

/// What carries the bytes.
pub(super) enum Transport {
    /// TCP.
    Plain(TcpStream),
    /// TLS over it. Boxed, since it is large.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that has greeted, and holds its slot among the connections allowed.
pub(super) struct Connection {
    transport: Transport,
    greeting: [u8; GREETING_BYTES],
    /// How much of the greeting was given out.
    given: usize,
    peer: Peer,
    _slot: Slot,
}

/// A place among the connections allowed, and among those counted.
pub(super) type Slot = (OwnedSemaphorePermit, Present);

impl Connection {
    /// Waits until the peer has sent a whole HTTP/2 preface, or something as long that is none and
    /// gets its answer from those who serve it.
    pub(super) async fn greeted(
        mut transport: Transport,
        address: Option<SocketAddr>,
        slot: Slot,
    ) -> io::Result<Self> {
        let mut greeting = [0; GREETING_BYTES];
        transport.read_exact(&mut greeting).await?;
        let certificate = match &transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => {
                let chain = stream.get_ref().1.peer_certificates();
                chain.and_then(ClientCertificate::new).map(Arc::new)
            }
        };
        let peer = Peer { address, certificate };
        Ok(Self { transport, greeting, given: 0, peer, _slot: slot })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let greeting = &self.greeting[self.given..];
        if greeting.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buf);
        }
        let given = greeting.len().min(buf.remaining());
        buf.put_slice(&greeting[..given]);
        self.given += given;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

/// Passes a call on to what carries the bytes.
macro_rules! carry {
    ($self:ident, $method:ident($($argument:expr),*)) => {
        match $self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        carry!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        carry!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        carry!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        carry!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        carry!(self, poll_shutdown(cx))
    }
}
