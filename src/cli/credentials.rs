//! How client commands trust the server and show who they are: TLS files and tokens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use tonic::{Request, Status};

use super::error::Error;
use crate::watched;

/// Largest file of certificates, a key or a token.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The options that are about security.
#[derive(Debug, clap::Args)]
pub(super) struct CredentialArgs {
    /// The authorities in PEM to trust for the server's certificate [default: the system's]
    #[arg(long, global = true, env = "COLUMBA_SERVER_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This client's certificate in PEM; needs --tls-key
    #[arg(long, global = true, env = "COLUMBA_CLIENT_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert in PEM
    #[arg(long, global = true, env = "COLUMBA_CLIENT_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// The token that says who calls. Others on this machine can see it: prefer --token-file
    #[arg(long, global = true, env = "COLUMBA_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<Secret>,
    /// A file with the token, read again for each connection
    #[arg(long, global = true, env = "COLUMBA_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The names of the options, as clap knows them.
pub(super) const OPTIONS: [&str; 5] = ["tls_ca", "tls_cert", "tls_key", "token", "token_file"];

/// A text that is never printed.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl CredentialArgs {
    /// Whether anything asks for TLS.
    pub(super) fn want_tls(&self) -> bool {
        self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_key.is_some()
    }

    /// What to trust and to show.
    pub(super) fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.tls_ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                Ok(tls.identity(Identity::from_pem(read(certificate)?, read(key)?)))
            }
            (None, None) => Ok(tls),
            _ => Err(Error::Usage("give --tls-cert and --tls-key together".into())),
        }
    }

    /// What goes with each call.
    pub(super) fn bearer(&self) -> Result<Bearer, Error> {
        let token = match (&self.token, &self.token_file) {
            (None, None) => return Ok(Bearer(None)),
            (Some(token), None) => token.0.clone(),
            (None, Some(path)) => String::from_utf8(read(path)?)
                .map_err(|_| Error::Input(format!("{} holds no token: it is no text", path.display())))?,
            (Some(_), Some(_)) => {
                let both = "give one of --token (COLUMBA_TOKEN) and --token-file (COLUMBA_TOKEN_FILE)";
                return Err(Error::Usage(both.into()));
            }
        };
        let token = token.trim();
        let header = MetadataValue::try_from(format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
        let mut header =
            header.ok_or_else(|| Error::Input("the token is empty, or no line of ASCII text".into()))?;
        header.set_sensitive(true);
        Ok(Bearer(Some(header)))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    watched::read(path, MAX_FILE_BYTES).map_err(Error::Input)
}

/// Adds the token to calls.
#[derive(Debug, Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}
