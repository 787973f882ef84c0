//! The channel to the server, and streams that are opened again when they break.

use std::error::Error as _;
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::Error;
use crate::columba::Goaway;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// A channel that connects when it is used, and again when the connection is lost.
pub fn connect() -> Result<Channel, Error> {
    let server = std::env::var("COLUMBA_SERVER").unwrap_or_else(|_| "127.0.0.1:7171".into());
    let endpoint = Endpoint::from_shared(format!("http://{server}"))?;
    // Notices a server that vanished without a word.
    Ok(endpoint.http2_keep_alive_interval(Duration::from_secs(20)).connect_lazy())
}

/// The server is away, or the connection to it broke: then the error has a source on this side.
pub fn is_unreachable(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

/// Makes a short call again while the server cannot be reached, but not for ever.
pub async fn retry<A>(call: impl AsyncFn() -> Result<Response<A>, Status>) -> Result<A, Status> {
    let end = Instant::now() + PATIENCE;
    let mut delay = FIRST_DELAY;
    loop {
        match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if !is_unreachable(&status) || Instant::now() + delay > end => return Err(status),
            Err(_) => tokio::time::sleep(delay).await,
        }
        delay = (2 * delay).min(LONGEST_DELAY);
    }
}

/// What is to be done after an event.
pub enum Next {
    GoOn,
    /// The server shuts down, and says when to come back.
    ComeBack(Goaway),
    Stop,
}

/// Hands each event of a stream to `handle`, until that says stop.
///
/// When the server goes away, whether the stream or a call in `handle` notices it, the stream is opened again. What
/// was not settled by then comes again.
pub async fn keep_open<E>(
    open: impl AsyncFn() -> Result<Response<Streaming<E>>, Status>,
    mut handle: impl AsyncFnMut(E) -> Result<Next, Status>,
) -> Result<(), Status> {
    let mut delay = FIRST_DELAY;
    loop {
        let read = async {
            let mut stream = open().await?.into_inner();
            while let Some(event) = stream.message().await? {
                delay = FIRST_DELAY;
                match handle(event).await? {
                    Next::GoOn => {}
                    Next::ComeBack(goaway) => {
                        let after = goaway.reconnect_after.unwrap_or_default();
                        delay = Duration::try_from(after).unwrap_or_default().max(FIRST_DELAY);
                    }
                    Next::Stop => return Ok(()),
                }
            }
            Err(Status::unavailable("the stream ended"))
        };
        match read.await {
            Err(status) if is_unreachable(&status) => eprintln!("{}: again in {delay:?}", status.message()),
            done => return done,
        }
        tokio::time::sleep(delay.mul_f64(rand::random_range(1.0..1.5))).await;
        delay = (2 * delay).min(LONGEST_DELAY);
    }
}

/// Passes over the error of an answer to the server that came too late: somebody else has the work then.
pub fn settled<A>(answer: Result<A, Status>) -> Result<(), Status> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if is_unreachable(&status) => Err(status),
        Err(status) => {
            eprintln!("not settled: {}", status.message());
            Ok(())
        }
    }
}
