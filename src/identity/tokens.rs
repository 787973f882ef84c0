//! Static tokens: a file of their hashes, which may change while the server runs.
//!
//! Tokens are long and random, so a plain SHA-256 is enough: nobody can go through all of them. A token
//! is looked up by the beginning of its hash and compared in constant time; what the time of the
//! look-up tells about a hash does not help to find a token.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use super::{MAX_GROUPS, Method, Principal, is_name};
use crate::watched::{self, Watch};

/// Shortest token that is hashed, in bytes.
pub const MIN_TOKEN_BYTES: usize = 20;
/// Tokens of one principal that are valid at once: the new one and the old one.
const MAX_TOKENS_OF_ONE: usize = 2;
/// Most tokens in the file.
const MAX_TOKENS: usize = 10_000;
/// Largest file.
const MAX_FILE_BYTES: u64 = 4 << 20;
const SCHEME: &str = "sha256:";

/// The SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// The hash of a token as the file has it: `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn hash(token: &str) -> String {
    use std::fmt::Write as _;
    let mut text = SCHEME.to_owned();
    for byte in digest(token) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn digest(token: &str) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Reads `sha256:` and 64 hexadecimal digits.
fn parse_hash(text: &str) -> Option<Digest> {
    let digits = text.strip_prefix(SCHEME).filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut digest = Digest::default();
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        let pair = &digits[at..at + 2];
        *byte = u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))?;
    }
    Some(digest)
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    principal: String,
    hash: String,
    #[serde(default)]
    groups: Vec<String>,
}

/// Who holds which token.
#[derive(Default)]
struct Table(HashMap<[u8; 8], Vec<(Digest, Arc<Principal>)>>);

impl Table {
    /// Reads the file's text; the errors are all that is wrong with it.
    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![explain(text, &error)])?;
        if file.tokens.len() > MAX_TOKENS {
            return Err(vec![format!("there are {} tokens, and at most {MAX_TOKENS}", file.tokens.len())]);
        }
        let mut table = Self::default();
        let mut held: HashMap<String, usize> = HashMap::new();
        let mut problems = Vec::new();
        for (entry, number) in file.tokens.into_iter().zip(1..) {
            let tokens = held.entry(entry.principal.clone()).or_default();
            *tokens += 1;
            let tokens = *tokens;
            if let Err(problem) = table.add(entry, tokens) {
                problems.push(format!("token {number}: {problem}"));
            }
        }
        if problems.is_empty() { Ok(table) } else { Err(problems) }
    }

    /// Takes an entry, the nth one of its principal.
    fn add(&mut self, entry: Entry, nth: usize) -> Result<(), String> {
        let Entry { principal, hash, groups } = entry;
        if !is_name(&principal) {
            return Err("principal must be 1 to 255 bytes without control characters".into());
        }
        if groups.len() > MAX_GROUPS || !groups.iter().all(|group| is_name(group)) {
            return Err("groups must be at most 100, each 1 to 255 bytes without control characters".into());
        }
        // Not repeated in the error: it may be the token itself.
        let digest = parse_hash(&hash).ok_or(
            "hash must be sha256: and 64 hexadecimal digits, as `columba auth hash-token` prints it",
        )?;
        if nth > MAX_TOKENS_OF_ONE {
            return Err(format!("{principal:?} has more than {MAX_TOKENS_OF_ONE} tokens; remove the oldest"));
        }
        if self.get(&digest).is_some() {
            return Err("the same hash stands there twice".into());
        }
        let principal = Arc::new(Principal { name: principal, method: Method::Token, groups });
        self.0.entry(prefix(&digest)).or_default().push((digest, principal));
        Ok(())
    }

    fn get(&self, digest: &Digest) -> Option<&Arc<Principal>> {
        let same = |(known, _): &&(Digest, _)| bool::from(known.ct_eq(digest));
        self.0.get(&prefix(digest))?.iter().find(same).map(|(_, principal)| principal)
    }
}

/// What is wrong with the file, and where; without its lines, which hold hashes.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => format!("line {}: {}", before.matches('\n').count() + 1, error.message()),
        None => error.message().to_owned(),
    }
}

fn prefix(digest: &Digest) -> [u8; 8] {
    *digest.first_chunk().expect("32 bytes are more than 8")
}

/// The tokens that are valid now.
pub(super) struct Tokens {
    path: PathBuf,
    current: ArcSwap<(Vec<u8>, Table)>,
    failures: AtomicU64,
}

impl Tokens {
    pub(super) fn open(path: PathBuf) -> Result<Arc<Self>, String> {
        let bytes = watched::read(&path, MAX_FILE_BYTES)?;
        let table = Self::parse(&path, &bytes)?;
        Ok(Arc::new(Self {
            path,
            current: ArcSwap::from_pointee((bytes, table)),
            failures: AtomicU64::new(0),
        }))
    }

    fn parse(path: &std::path::Path, bytes: &[u8]) -> Result<Table, String> {
        let text = str::from_utf8(bytes).map_err(|_| vec!["it is not UTF-8".to_owned()]);
        text.and_then(Table::parse).map_err(|problems| {
            format!("the tokens file {} cannot be used: {}", path.display(), problems.join("; "))
        })
    }

    /// Who holds a token.
    pub(super) fn find(&self, token: &str) -> Option<(Digest, Arc<Principal>)> {
        let digest = digest(token);
        self.holder(&digest).map(|principal| (digest, principal))
    }

    /// Who holds the token with this hash.
    pub(super) fn holder(&self, digest: &Digest) -> Option<Arc<Principal>> {
        self.current.load().1.get(digest).map(Arc::clone)
    }

    pub(super) fn failed_reloads(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Takes up a new file until `stop`.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let watch = Watch::new([&self.path]);
        let mut failed: Option<String> = None;
        while stop.run_until_cancelled(watch.changed()).await.is_some() {
            let tokens = Arc::clone(&self);
            let reload = move || tokens.reload(failed.as_deref());
            failed = tokio::task::spawn_blocking(reload).await.expect("reloading does not panic");
        }
    }

    /// Loads the file if it changed. What failed is returned, and told once.
    fn reload(&self, failed: Option<&str>) -> Option<String> {
        let bytes = watched::read(&self.path, MAX_FILE_BYTES);
        if bytes.as_ref().is_ok_and(|bytes| *bytes == self.current.load().0) {
            return None;
        }
        match bytes.and_then(|bytes| Self::parse(&self.path, &bytes).map(|table| (bytes, table))) {
            Ok(new) => {
                self.current.store(Arc::new(new));
                tracing::info!("new tokens");
                None
            }
            Err(problem) => {
                if failed != Some(&*problem) {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("keeping the tokens in use: {problem}");
                }
                Some(problem)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(principal: &str, hash: &str) -> String {
        format!("[[tokens]]\nprincipal = '{principal}'\nhash = '{hash}'\n")
    }

    #[test]
    fn finds_who_holds_a_token() {
        let file =
            entry("billing", &hash("one")) + &entry("billing", &hash("two")) + &entry("ops", &hash("three"));
        let table = Table::parse(&file).map_err(|problems| problems.join("\n")).unwrap();
        for (token, holder) in
            [("one", Some("billing")), ("two", Some("billing")), ("three", Some("ops")), ("four", None)]
        {
            assert_eq!(table.get(&digest(token)).map(|principal| &*principal.name), holder);
        }
        assert!(Table::parse("").is_ok(), "no tokens at all: everything is revoked");
    }

    #[test]
    fn hashes_as_other_tools_do() {
        // printf abc | sha256sum
        assert_eq!(hash("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(parse_hash(&hash("abc")), Some(digest("abc")));
        assert_eq!(parse_hash(&hash("abc").to_uppercase().replace("SHA", "sha")), Some(digest("abc")));
    }

    #[test]
    fn says_everything_that_is_wrong_and_repeats_no_secret() {
        let secret = "a-token-that-was-not-hashed";
        let file = [
            entry("billing", secret),
            entry("", &hash("1")),
            entry("ops", &hash("2")),
            entry("ops", &hash("3")),
            entry("ops", &hash("4")),
            entry("twice", &hash("2")),
            entry("plus", &format!("sha256:{}", "+1".repeat(32))),
        ];
        let problems = Table::parse(&file.concat()).err().unwrap();
        assert_eq!(problems.len(), 5, "{problems:#?}");
        for (problem, number) in problems.iter().zip([1, 2, 5, 6, 7]) {
            assert!(problem.starts_with(&format!("token {number}: ")), "{problems:#?}");
            assert!(!problem.contains(secret), "{problems:#?}");
        }
        let unknown = Table::parse("[[tokens]]\nprincipal = 'a'\nhsah = 'b'\n").err().unwrap();
        assert!(unknown[0].contains("hsah"), "{unknown:?}");
    }
}
