//! `columba auth`.

use std::io::Read;

use super::context::Context;
use super::error::Error;
use crate::identity::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, hash};

/// Work with tokens
#[derive(Debug, clap::Subcommand)]
pub(super) enum AuthCommand {
    /// Print the hash of a token read from standard input, for the server's tokens file
    ///
    /// The server keeps hashes only (`identity.tokens`). A token must be long and random, because its
    /// hash is a plain SHA-256.
    #[command(after_help = "Examples:
  openssl rand -hex 32 > billing.token
  columba auth hash-token < billing.token")]
    HashToken,
}

pub(super) fn run(command: &AuthCommand, context: &Context) -> Result<(), Error> {
    match command {
        AuthCommand::HashToken => hash_token(context),
    }
}

fn hash_token(context: &Context) -> Result<(), Error> {
    let mut token = String::new();
    let read = std::io::stdin().lock().take(MAX_TOKEN_BYTES as u64 + 2).read_to_string(&mut token);
    read.map_err(|error| Error::Input(format!("cannot read the token from standard input: {error}")))?;
    let token = token.trim();
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Error::Input(format!("the token is longer than {MAX_TOKEN_BYTES} bytes")));
    }
    if token.len() < MIN_TOKEN_BYTES {
        return Err(Error::Input(format!(
            "the token has {} bytes, and needs at least {MIN_TOKEN_BYTES}, so that nobody can guess it; make one \
             with `openssl rand -hex 32`",
            token.len()
        )));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Input("a token is one word of ASCII characters".into()));
    }
    let hash = hash(token);
    Ok(context.format.sentence(&serde_json::json!({ "hash": hash }), &hash)?)
}
