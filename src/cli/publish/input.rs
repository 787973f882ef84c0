//! Where the messages to publish come from, read by a thread of their own in batches.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::error::Error;
use super::csv::Csv;
use super::lines::{Lines, Ndjson};
use super::{Format, PublishArgs};
use crate::proto::v1::Message;

/// Data in one batch at most; one message is always allowed.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Batches read ahead.
const READ_AHEAD: usize = 2;
/// How much is read from a file at once.
pub(super) const BUFFER_BYTES: usize = 1 << 16;

/// A source of messages.
pub(super) trait Source: Send {
    /// The next record: its data, key and id, or `None` at the end.
    fn next(&mut self) -> Result<Option<Record>, Error>;

    /// Whether the next record has been read already.
    fn at_hand(&self) -> bool;
}

/// What one message is made of.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) data: Bytes,
    /// The key; `None` for the one that the arguments give.
    pub(super) key: Option<String>,
    /// The id; `None` for the one that the arguments give.
    pub(super) id: Option<String>,
    /// How far into the input it ends, in bytes.
    pub(super) position: u64,
}

/// The fields or columns that messages take something from besides their data.
#[derive(Debug, Default)]
pub(super) struct Names<T = String> {
    /// The one whose value is the key.
    pub(super) key: Option<T>,
    /// The one whose value is the id.
    pub(super) id: Option<T>,
}

/// Messages published together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) messages: Vec<Message>,
    /// The size of their data.
    pub(super) bytes: usize,
    /// How far into the input they reach, in bytes.
    pub(super) position: u64,
}

/// The batches of an input, and its size where that is known.
pub(super) struct Input {
    pub(super) batches: mpsc::Receiver<Result<Batch, Error>>,
    pub(super) size: Option<u64>,
    /// Something odd about it that is no error.
    pub(super) note: Option<String>,
}

/// Opens the input that the arguments name, and begins to read it.
pub(super) fn open(args: &mut PublishArgs, template: Message) -> Result<Input, Error> {
    let raw = Raw::open(args)?;
    let (live, size) = (raw.size.is_none(), raw.size);
    let cut = raw.ends_within_line && matches!(args.format(), Format::Csv);
    let note = cut.then(|| {
        let name = &raw.name;
        format!("note: {name} does not end with a line end; if it was cut, its last value is not whole")
    });
    let source = raw.source(args)?;
    let (sender, batches) = mpsc::channel(READ_AHEAD);
    let (id_prefix, limit) = (args.id_prefix.take(), args.batch as usize);
    let batcher = Batcher { source, live, template, id_prefix, skip: args.skip, number: 0, limit };
    // A thread that nobody waits for, since a read from a terminal cannot be cancelled.
    std::thread::Builder::new().name("input".into()).spawn(move || batcher.run(&sender))?;
    Ok(Input { batches, size, note })
}

/// An input before it is taken apart.
struct Raw {
    name: String,
    /// `None` for messages given as arguments.
    reader: Option<Box<dyn Read + Send>>,
    /// `None` where somebody may still be writing it.
    size: Option<u64>,
    /// The last line of a file has no line end.
    ends_within_line: bool,
}

impl Raw {
    fn open(args: &PublishArgs) -> Result<Self, Error> {
        match &args.file {
            Some(path) if path != Path::new("-") => Self::file(path),
            None if !args.data.is_empty() && args.data != ["-"] => {
                let size = Some(args.data.len() as u64);
                Ok(Self { name: "arguments".into(), reader: None, size, ends_within_line: false })
            }
            _ => Ok(Self {
                name: "standard input".into(),
                reader: Some(Box::new(io::stdin())),
                size: None,
                ends_within_line: false,
            }),
        }
    }

    fn file(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let cannot = |error| Error::Input(format!("cannot read {name}: {error}"));
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            return Err(Error::Input(format!("{name} is a directory; give a file")));
        }
        let size = metadata.is_file().then_some(metadata.len());
        let mut last = [b'\n'];
        if let Some(at) = size.and_then(|size| size.checked_sub(1)) {
            file.read_exact_at(&mut last, at).map_err(cannot)?;
        }
        let ends_within_line = !matches!(last, [b'\n' | b'\r']);
        Ok(Self { name, reader: Some(Box::new(file)), size, ends_within_line })
    }

    fn source(self, args: &mut PublishArgs) -> Result<Box<dyn Source>, Error> {
        let Some(reader) = self.reader else {
            return Ok(Box::new(Arguments(std::mem::take(&mut args.data).into_iter())));
        };
        let lines = |name, reader| Lines::new(name, BufReader::with_capacity(BUFFER_BYTES, reader));
        Ok(match args.format() {
            Format::Lines => Box::new(lines(self.name, reader)),
            Format::Ndjson => {
                let names = Names { key: args.key.take(), id: args.id.take() };
                Box::new(Ndjson::new(lines(self.name, reader), names))
            }
            Format::Csv => {
                let names = Names { key: args.key.take(), id: args.id.take() };
                Box::new(Csv::open(self.name, reader, names, args.null.take())?)
            }
        })
    }
}

/// Messages given as arguments.
struct Arguments(std::vec::IntoIter<String>);

impl Source for Arguments {
    fn next(&mut self) -> Result<Option<Record>, Error> {
        let data = self.0.next();
        Ok(data.map(|data| Record { data: data.into(), key: None, id: None, position: 0 }))
    }

    fn at_hand(&self) -> bool {
        true
    }
}

/// Puts records into batches.
struct Batcher {
    source: Box<dyn Source>,
    /// Somebody may still be writing the input: what is there must not wait for what is not.
    live: bool,
    template: Message,
    /// What ids begin with that go by the place in the input.
    id_prefix: Option<String>,
    skip: u64,
    /// The place of the last record in the input, from 1.
    number: u64,
    limit: usize,
}

impl Batcher {
    /// Reads to the end, to the first error, or until nobody takes the batches.
    fn run(mut self, sender: &mpsc::Sender<Result<Batch, Error>>) {
        loop {
            let mut batch = Batch::default();
            let ended = self.fill(&mut batch);
            if !batch.messages.is_empty() && sender.blocking_send(Ok(batch)).is_err() {
                return;
            }
            match ended {
                Ok(false) => {}
                Ok(true) => return,
                // When nobody takes the error, nobody misses it.
                Err(error) => return drop(sender.blocking_send(Err(error))),
            }
        }
    }

    /// Reads one batch; says whether the input ended. What was read before an error is in the batch.
    fn fill(&mut self, batch: &mut Batch) -> Result<bool, Error> {
        while batch.messages.len() < self.limit && batch.bytes < MAX_BATCH_BYTES {
            if self.live && !batch.messages.is_empty() && !self.source.at_hand() {
                break;
            }
            let Some(record) = self.source.next()? else { return Ok(true) };
            self.number += 1;
            if self.number <= self.skip {
                continue;
            }
            batch.bytes += record.data.len();
            batch.position = record.position;
            batch.messages.push(self.message(record));
        }
        Ok(false)
    }

    fn message(&self, record: Record) -> Message {
        let mut message = self.template.clone();
        message.data = record.data;
        if let Some(key) = record.key {
            message.key = key;
        }
        if let Some(id) = record.id {
            message.id = id;
        } else if let Some(prefix) = &self.id_prefix {
            message.id = format!("{prefix}-{}", self.number);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(input: &[&str], skip: u64, limit: usize) -> Vec<Vec<Message>> {
        let input: Vec<_> = input.iter().map(|&data| data.to_owned()).collect();
        let source = Box::new(Arguments(input.into_iter()));
        let (sender, mut receiver) = mpsc::channel(100);
        let (template, id_prefix) = (Message::default(), Some("run".into()));
        Batcher { source, live: false, template, id_prefix, skip, number: 0, limit }.run(&sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).map(|batch| batch.unwrap().messages).collect()
    }

    fn batches(input: &[&str], skip: u64, limit: usize) -> Vec<Vec<Bytes>> {
        let data = |batch: Vec<Message>| batch.into_iter().map(|message| message.data).collect();
        messages(input, skip, limit).into_iter().map(data).collect()
    }

    #[test]
    fn ids_go_by_the_place_in_the_whole_input() {
        let batches = messages(&["a", "b", "c", "d"], 1, 2);
        let ids: Vec<_> = batches.iter().flatten().map(|message| message.id.as_str()).collect();
        assert_eq!(ids, ["run-2", "run-3", "run-4"]);
    }

    #[test]
    fn batches_have_their_size_and_the_rest_comes_last() {
        assert_eq!(batches(&["a", "b", "c"], 0, 2), [vec!["a", "b"], vec!["c"]]);
        assert_eq!(batches(&["a", "b", "c"], 2, 2), [vec!["c"]]);
        assert!(batches(&["a"], 5, 2).is_empty());
    }

    #[test]
    fn batches_end_at_their_limit_of_bytes() {
        let large = "x".repeat(MAX_BATCH_BYTES);
        let sizes: Vec<_> = batches(&[&large, "b", &large, "d"], 0, 100).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }
}
