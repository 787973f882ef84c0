//! What happens on a connection before its first request: the socket is set up, TLS is agreed on, and
//! who speaks the wrong one of TLS and plain HTTP/2 is told so in their own terms.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::transport::Transport;
use crate::tls::Tls;

/// Silence of a peer after which the system probes it.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);
/// The first byte of a TLS connection, which is that of no text.
const TLS_HANDSHAKE: u8 = 0x16;
/// A fatal alert: `handshake_failure`.
const TLS_ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 40];
/// To HTTP/2 clients: empty settings, and a goaway of stream 0 with `INADEQUATE_SECURITY`, which some
/// show with its text.
const H2_GOAWAY: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x28\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0cthis port speaks TLS: use https:";
/// To HTTP/1 clients.
const HTTP1_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 39\r\n\r\nthis port speaks gRPC over TLS (https)\n";

/// How long a peer with the wrong protocol has to hang up.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How much of what it says is passed over.
const MAX_IGNORED_BYTES: u64 = 64 << 10;

/// Agrees on TLS, if there is one.
#[derive(Clone)]
pub(super) struct Handshake {
    tls: Option<Arc<Tls>>,
    /// Those under way.
    slots: Arc<Semaphore>,
}

impl Handshake {
    /// At most so many at once; further ones wait.
    pub(super) fn new(tls: Option<Arc<Tls>>, at_once: usize) -> Self {
        Self { tls, slots: Arc::new(Semaphore::new(at_once)) }
    }

    /// Sets up the socket and waits for the peer's first byte, and for TLS.
    pub(super) async fn run(&self, stream: TcpStream) -> io::Result<Transport> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (&self.tls, first[0] == TLS_HANDSHAKE) {
            (None, false) => Ok(Transport::Plain(stream)),
            (Some(tls), true) => {
                let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
                let stream = TlsAcceptor::from(tls.config()).accept(stream).await?;
                Ok(Transport::Tls(Box::new(stream)))
            }
            (None, true) => Err(part(stream, &TLS_ALERT, "it speaks TLS, and this port does not").await),
            (Some(_), false) => {
                // 'P' opens HTTP/2, and HTTP/1 only when something is posted, which gets a goaway then.
                let answer = if first == *b"P" { H2_GOAWAY } else { HTTP1_ANSWER };
                Err(part(stream, answer, "it does not speak TLS, and this port does").await)
            }
        }
    }
}

/// Ends a connection with a last word. What the peer sends meanwhile is read, because otherwise the
/// system would take the last word back.
async fn part(mut stream: TcpStream, answer: &[u8], why: &'static str) -> io::Error {
    let farewell = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(MAX_IGNORED_BYTES), &mut tokio::io::sink()).await
    };
    let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_have_the_lengths_that_they_say() {
        let goaway = &H2_GOAWAY[9..];
        assert_eq!(goaway.len() - 9, usize::from(goaway[2]));
        let text = str::from_utf8(HTTP1_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{text}");
    }
}
