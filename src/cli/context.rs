//! What every client command needs: where the server is, how long to wait, how to print.

use std::str::FromStr;
use std::time::Duration;

use tonic::Request;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use super::credentials::{Bearer, CredentialArgs};
use super::error::Error;
use super::output::Format;
use super::parse;

/// Largest response taken: the largest the server sends, with room for framing.
pub(super) const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// Silence after which the connection itself is checked.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A connection that says who calls.
pub(super) type Channel = InterceptedService<tonic::transport::Channel, Bearer>;

/// The options that all client commands share.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Client options")]
pub(super) struct GlobalArgs {
    /// The server to talk to: HOST:PORT, http://HOST:PORT or, for TLS, https://HOST:PORT
    #[arg(long, global = true, env = "COLUMBA_SERVER", default_value = "127.0.0.1:7171")]
    #[arg(value_name = "ADDRESS")]
    server: Server,
    /// How to print: text for people, json for programs, one object a line
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// How long to wait for the connection and for each answer, such as 500ms or 1m
    #[arg(long, global = true, default_value = "10s", value_parser = parse::positive_duration)]
    #[arg(value_name = "DURATION")]
    timeout: Duration,
    #[command(flatten)]
    credentials: CredentialArgs,
}

/// The address of a server, checked.
#[derive(Debug, Clone)]
struct Server {
    address: String,
    endpoint: Endpoint,
    /// Whether a scheme was given; without one, the other options decide.
    explicit: bool,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "give HOST:PORT, http://HOST:PORT or https://HOST:PORT, such as 127.0.0.1:7171";
        let (address, explicit) = match text.split_once("://") {
            None => (format!("http://{text}"), false),
            Some(("http" | "https", _)) => (text.to_owned(), true),
            Some(_) => return Err(wanted.into()),
        };
        let endpoint =
            Endpoint::from_shared(address.clone()).map_err(|error| format!("{error}; {wanted}"))?;
        let uri = endpoint.uri();
        if uri.host().is_none_or(str::is_empty) || uri.port().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(wanted.into());
        }
        Ok(Self { address, endpoint, explicit })
    }
}

impl Server {
    fn is_https(&self) -> bool {
        self.address.starts_with("https:")
    }

    /// The server through TLS if that is wanted and the address leaves it open.
    fn secured(self, wanted: bool) -> Self {
        if self.explicit || !wanted {
            return self;
        }
        let address = self.address.replacen("http:", "https:", 1);
        let endpoint = Endpoint::from_shared(address.clone()).expect("only the scheme differs");
        Self { address, endpoint, explicit: true }
    }
}

/// Where the server is, how long to wait, how to print.
#[derive(Debug)]
pub(super) struct Context {
    server: Server,
    credentials: CredentialArgs,
    /// How long any answer may take.
    pub(super) timeout: Duration,
    /// How to print.
    pub(super) format: Format,
}

impl Context {
    pub(super) fn new(args: GlobalArgs) -> Self {
        let mut server = args.server.secured(args.credentials.want_tls());
        server.endpoint = server
            .endpoint
            .connect_timeout(args.timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(args.timeout)
            .keep_alive_while_idle(true);
        Self { server, credentials: args.credentials, timeout: args.timeout, format: args.output }
    }

    /// Connects to the server.
    pub(super) async fn connect(&self) -> Result<Channel, Error> {
        let mut endpoint = self.server.endpoint.clone();
        if self.server.is_https() {
            endpoint = endpoint.tls_config(self.credentials.tls()?).map_err(|error| {
                Error::Input(format!(
                    "cannot set up TLS: {}; check the PEM files",
                    super::error::root(&error)
                ))
            })?;
        } else if self.credentials.want_tls() {
            return Err(Error::Usage("TLS options need an https:// address in --server".into()));
        }
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| Error::Unreachable {
            server: self.server.address.clone(),
            cause: error.into(),
        })?;
        Ok(InterceptedService::new(channel, self.credentials.bearer()?))
    }

    /// A request with a deadline, for a call with one answer.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_with_and_without_a_scheme() {
        for (text, address) in [
            ("127.0.0.1:7171", "http://127.0.0.1:7171"),
            ("http://columba:7171", "http://columba:7171"),
            ("http://columba:7171/", "http://columba:7171/"),
            ("[::1]:80", "http://[::1]:80"),
            ("https://columba:7171", "https://columba:7171"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().address, address);
        }
        for bad in ["", "columba", "http://", "https://a", "ftp://a:1", "a:b", "a:1/path", "a b:1", ":7171"] {
            assert!(bad.parse::<Server>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn tls_options_decide_where_the_address_does_not() {
        for (text, wanted, address) in [
            ("a:1", true, "https://a:1"),
            ("a:1", false, "http://a:1"),
            ("http://a:1", true, "http://a:1"),
            ("https://a:1", false, "https://a:1"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().secured(wanted).address, address);
        }
    }
}
