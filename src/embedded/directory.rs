//! What makes a data directory itself: its format version, its log's id, and the key of its ack ids.

use std::fmt::Write as _;
use std::io;

use super::log::format::{LogId, SEGMENT_HEADER, VERSION, read_segment_header};
use super::log::fs::{Fs, read, write_atomically};
use super::log::segments;

/// The file that holds it, at the top of the data directory.
const FILE: &str = "columba.meta";

/// A data directory's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Part of every checksum in the log.
    pub(crate) log: LogId,
    /// Signs ack ids, so that nobody can make one up.
    pub(crate) ack_key: [u8; 16],
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "it has format version {found}, and this version of columba knows {VERSION}; use the version that wrote it"
    )]
    UnknownVersion { found: String },
    #[error(
        "its file {FILE} is damaged: {what}; restore it from a backup, or remove it to have it made anew"
    )]
    Damaged { what: &'static str },
    #[error("it has no {FILE}, and no segment tells its id; restore {FILE} from a backup")]
    Missing,
}

/// Refuses a directory that is not for this version, before anything in it is touched.
pub(crate) fn check(fs: &dyn Fs) -> Result<(), IdentityError> {
    match read(fs, FILE) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)).map(|_| ()),
        // What there is to read is read again, and what is not is made.
        Err(_) => Ok(()),
    }
}

/// Reads the identity of a data directory, or gives a new one to an empty directory.
pub(crate) fn load_or_create(fs: &dyn Fs) -> Result<Identity, IdentityError> {
    match read(fs, FILE) {
        Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let names = segments::list(fs)?;
            let log = if names.is_empty() { LogId(rand::random()) } else { id_from_segments(fs, &names)? };
            let identity = Identity { log, ack_key: rand::random() };
            write_atomically(fs, "", FILE, format(&identity).as_bytes())?;
            Ok(identity)
        }
        Err(error) => Err(error.into()),
    }
}

fn id_from_segments(fs: &dyn Fs, names: &[u64]) -> Result<LogId, IdentityError> {
    for &segment in names {
        let mut header = [0; SEGMENT_HEADER];
        let file = fs.open(&segments::path(segment))?;
        if file.read_at(&mut header, 0).is_ok()
            && let Ok(Some((log, _))) = read_segment_header(&header)
        {
            tracing::warn!("{FILE} is missing; made anew from the log. Ack ids given out before are void");
            return Ok(log);
        }
    }
    Err(IdentityError::Missing)
}

fn format(identity: &Identity) -> String {
    let (log, key) = (hex(&identity.log.0), hex(&identity.ack_key));
    format!(
        "# A Columba data directory. Keep this file with the log.\nformat = {VERSION}\nlog = {log}\nack_key = {key}\n"
    )
}

fn parse(text: &str) -> Result<Identity, IdentityError> {
    let field = |name: &str| {
        let mut fields = text.lines().filter_map(|line| line.split_once('='));
        fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let damaged = |what| IdentityError::Damaged { what };
    let found = field("format").ok_or(damaged("no format version"))?;
    if found != VERSION.to_string() {
        return Err(IdentityError::UnknownVersion { found: found.chars().take(20).collect() });
    }
    let log = field("log").and_then(unhex).ok_or(damaged("no id of the log"))?;
    let ack_key = field("ack_key").and_then(unhex).ok_or(damaged("no key for ack ids"))?;
    Ok(Identity { log: LogId(log), ack_key })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok())??;
    Some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::log::fs_sim::SimFs;

    #[test]
    fn is_the_same_when_read_again() {
        let fs = SimFs::new();
        let identity = load_or_create(&fs).unwrap();
        assert_eq!(load_or_create(&fs).unwrap(), identity);
        assert_eq!(parse(&format(&identity)).unwrap(), identity);
    }

    #[test]
    fn refuses_other_versions_and_damage() {
        let text = format(&Identity { log: LogId([7; 16]), ack_key: [9; 16] });
        let newer = text.replace("format = 1", "format = 2");
        assert!(matches!(parse(&newer), Err(IdentityError::UnknownVersion { found }) if found == "2"));
        for damaged in ["", "format = 1", &text.replace("log = 0", "log = x"), &text[..text.len() - 5]] {
            assert!(matches!(parse(damaged), Err(IdentityError::Damaged { .. })), "{damaged}");
        }
    }
}
