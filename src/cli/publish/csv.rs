//! CSV input: every row becomes a JSON object, with the header's names as its keys.

use std::io::{self, Read};

use csv::{ByteRecord, ReaderBuilder};

use super::super::error::Error;
use super::input::{BUFFER_BYTES, Names, Record, Source};
use super::quotes::QuoteGuard;

/// The rows of a CSV file.
pub(super) struct Csv<R> {
    name: String,
    rows: csv::Reader<QuoteGuard<R>>,
    /// The columns' names, already written as JSON strings.
    columns: Vec<Vec<u8>>,
    /// The columns whose values are the key and the id.
    taken: Names<usize>,
    /// A text that means null, besides the empty one.
    null: Option<String>,
    row: ByteRecord,
}

impl<R: Read> Csv<R> {
    /// Reads the header.
    pub(super) fn open(name: String, reader: R, taken: Names, null: Option<String>) -> Result<Self, Error> {
        // Rows of any length are let through, to be refused in our own words.
        let mut rows = ReaderBuilder::new()
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(QuoteGuard::new(reader));
        let header = rows.byte_headers().map_err(|error| cannot(&name, &error))?.clone();
        let header_line = rows.get_mut().next_row();
        let names = column_names(&name, header_line, &header)?;
        let find = |flag, column: Option<String>| {
            column.map(|column| find_column(&name, &names, flag, &column)).transpose()
        };
        let taken = Names { key: find("--key", taken.key)?, id: find("--id", taken.id)? };
        let columns = names.iter().map(|column| serde_json::to_vec(column).map_err(io::Error::from));
        let columns = columns.collect::<Result<_, _>>()?;
        Ok(Self { name, rows, columns, taken, null, row: ByteRecord::new() })
    }

    fn bad(&self, line: u64, what: &str) -> Error {
        Error::Input(format!("{} line {line}: {what}", self.name))
    }

    /// The row as one JSON object.
    fn object(&self, line: u64) -> Result<Vec<u8>, Error> {
        let mut json = Vec::with_capacity(2 * self.row.as_slice().len() + 16 * self.columns.len());
        json.push(b'{');
        for (column, value) in self.columns.iter().zip(&self.row) {
            if json.len() > 1 {
                json.push(b',');
            }
            json.extend_from_slice(column);
            json.push(b':');
            write_value(&mut json, self.text(line, value)?, self.null.as_deref())?;
        }
        json.push(b'}');
        Ok(json)
    }

    fn text<'v>(&self, line: u64, value: &'v [u8]) -> Result<&'v str, Error> {
        str::from_utf8(value).map_err(|_| {
            let value = String::from_utf8_lossy(value);
            self.bad(line, &format!("{value:?} is not UTF-8; convert the file"))
        })
    }
}

impl<R: Read + Send> Source for Csv<R> {
    fn next(&mut self) -> Result<Option<Record>, Error> {
        match self.rows.read_byte_record(&mut self.row) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(cannot(&self.name, &error)),
        }
        let line = self.rows.get_mut().next_row();
        if self.row.len() != self.columns.len() {
            let (fields, columns) = (self.row.len(), self.columns.len());
            return Err(self.bad(line, &format!("the row has {fields} fields, and the header has {columns}")));
        }
        let text = |column| self.text(line, &self.row[column]).map(str::to_owned);
        let (key, id) = (self.taken.key.map(text).transpose()?, self.taken.id.map(text).transpose()?);
        if id.as_ref().is_some_and(String::is_empty) {
            return Err(self.bad(line, "the row has an empty id"));
        }
        let position = self.rows.position().byte();
        Ok(Some(Record { data: self.object(line)?.into(), key, id, position }))
    }

    fn at_hand(&self) -> bool {
        // The reader leaves the second byte of `\r\n` for the next row.
        self.rows.get_ref().row_end() > self.rows.position().byte() + 1
    }
}

/// What the reader could not read; the guard's own errors speak for themselves.
fn cannot(name: &str, error: &csv::Error) -> Error {
    match error.kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::Input(format!("{name} {error}"))
        }
        csv::ErrorKind::Io(error) => Error::Input(format!("cannot read {name}: {error}")),
        _ => Error::Input(format!("cannot read {name}: {error}")),
    }
}

fn column_names<'h>(name: &str, line: u64, header: &'h ByteRecord) -> Result<Vec<&'h str>, Error> {
    if header.is_empty() {
        return Err(Error::Input(format!("{name} is empty; its first line must name the columns")));
    }
    let mut names: Vec<&str> = Vec::with_capacity(header.len());
    for column in header {
        let column = str::from_utf8(column).map_err(|_| {
            Error::Input(format!("{name} line {line}: the header is not UTF-8; convert the file"))
        })?;
        if names.contains(&column) {
            return Err(Error::Input(format!(
                "{name} line {line}: column {column:?} occurs twice; rename one"
            )));
        }
        names.push(column);
    }
    Ok(names)
}

fn find_column(name: &str, names: &[&str], flag: &str, wanted: &str) -> Result<usize, Error> {
    names.iter().position(|&column| column == wanted).ok_or_else(|| {
        Error::Usage(format!("{flag}: {name} has no column {wanted:?}; its columns are {}", names.join(", ")))
    })
}

/// A number where the text is one in JSON as it stands, so that `007` keeps its zeros; null where it
/// is empty or the text for null; else a string.
fn write_value(json: &mut Vec<u8>, text: &str, null: Option<&str>) -> Result<(), Error> {
    if text.is_empty() || null == Some(text) {
        json.extend_from_slice(b"null");
    } else if is_json_number(text) {
        json.extend_from_slice(text.as_bytes());
    } else {
        serde_json::to_writer(json, text).map_err(io::Error::from)?;
    }
    Ok(())
}

fn is_json_number(text: &str) -> bool {
    // Most texts are none, and this is quicker than an error. It also refuses space around a number.
    let bytes = text.as_bytes();
    let may_begin = matches!(bytes.first(), Some(b'0'..=b'9' | b'-'));
    may_begin && bytes.last().is_some_and(u8::is_ascii_digit) && {
        // Refuses what no f64 can hold, such as 1e999.
        serde_json::from_str::<serde_json::Number>(text).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(input: &[u8], key: Option<&str>, null: Option<&str>) -> (Vec<(String, String)>, Option<String>) {
        let mut records = Vec::new();
        let taken = Names { key: key.map(Into::into), id: None };
        let mut source = match Csv::open("in.csv".into(), input, taken, null.map(Into::into)) {
            Ok(source) => source,
            Err(error) => return (records, Some(error.to_string())),
        };
        loop {
            match source.next() {
                Ok(Some(record)) => {
                    let data = String::from_utf8(record.data.into()).unwrap();
                    records.push((data, record.key.unwrap_or_default()));
                }
                Ok(None) => return (records, None),
                Err(error) => return (records, Some(error.to_string())),
            }
        }
    }

    fn one(input: &str, null: Option<&str>) -> String {
        let (mut records, error) = rows(input.as_bytes(), None, null);
        assert_eq!((records.len(), error), (1, None));
        records.remove(0).0
    }

    #[test]
    fn rows_become_objects_in_the_order_of_the_header() {
        let (records, error) =
            rows(b"year,carrier,\"a \"\"b\"\"\"\n2013,UA,\"x, \"\"y\"\"\nz\"\n", Some("carrier"), None);
        let object = r#"{"year":2013,"carrier":"UA","a \"b\"":"x, \"y\"\nz"}"#;
        assert_eq!((records, error), (vec![(object.into(), "UA".into())], None));
    }

    #[test]
    fn values_are_numbers_only_as_json_writes_them() {
        let header: Vec<_> = (0..15).map(|column| column.to_string()).collect();
        let values = "0,-1.5e3,007,+1,.5,5.,1e999,inf,NaN,NA,,12345678901234567890123, 1,true,-";
        let object: serde_json::Value =
            serde_json::from_str(&one(&format!("{}\n{values}\n", header.join(",")), None)).unwrap();
        let strings = ["007", "+1", ".5", "5.", "1e999", "inf", "NaN", "NA"];
        assert_eq!(object["0"], 0);
        assert_eq!(object["1"], -1500.0);
        for (column, text) in (2..).zip(strings) {
            assert_eq!(object[column.to_string()], text);
        }
        assert!(object["10"].is_null());
        assert!(object["11"].is_number());
        for (column, text) in [("12", " 1"), ("13", "true"), ("14", "-")] {
            assert_eq!(object[column], text);
        }
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!(one("a\n1.50\n", None), r#"{"a":1.50}"#);
        assert_eq!(one("a\n12345678901234567890123\n", None), r#"{"a":12345678901234567890123}"#);
    }

    #[test]
    fn null_is_empty_or_what_is_said_to_be() {
        assert_eq!(one("a,b\nNA,\n", None), r#"{"a":"NA","b":null}"#);
        assert_eq!(one("a,b\nNA,\n", Some("NA")), r#"{"a":null,"b":null}"#);
    }

    #[test]
    fn a_byte_order_mark_and_a_missing_last_line_end_are_fine() {
        assert_eq!(one("\u{feff}a\n1", None), r#"{"a":1}"#);
        assert_eq!(one("\u{feff}\"a\"\r\n\"x\"\r\n", None), r#"{"a":"x"}"#);
    }

    #[test]
    fn errors_name_file_and_line_and_come_after_the_good_rows() {
        for (input, good, message) in [
            ("a,b\n1,2\n3\n", 1, "in.csv line 3: the row has 1 fields, and the header has 2"),
            ("a,b\n1,2\n\n3,4,5\n", 1, "in.csv line 4: the row has 3 fields, and the header has 2"),
            ("a,b\n\"1\n2\",3\n4\n", 1, "in.csv line 4: the row has 1 fields, and the header has 2"),
            ("a\n1\n\"2\n3\n", 1, "in.csv line 3: the quote that opens here is never closed"),
            ("a,b\r\n1,2\r\n\r\n3\r\n", 1, "in.csv line 4: the row has 1 fields, and the header has 2"),
            ("\na,a\n1,2\n", 0, "in.csv line 2: column \"a\" occurs twice; rename one"),
            ("", 0, "in.csv is empty; its first line must name the columns"),
        ] {
            let (records, error) = rows(input.as_bytes(), None, None);
            assert_eq!((records.len(), error.as_deref()), (good, Some(message)), "{input:?}");
        }
        assert_eq!(
            rows(b"a\n\xff\n", None, None).1.unwrap(),
            "in.csv line 2: \"\u{fffd}\" is not UTF-8; convert the file"
        );
    }

    #[test]
    fn ids_come_from_a_column_and_are_never_empty() {
        let taken = |id: &str| Names { key: None, id: Some(id.into()) };
        let mut source = Csv::open("in.csv".into(), b"a,b\n1,x\n2,\n".as_slice(), taken("b"), None).unwrap();
        assert_eq!(source.next().unwrap().unwrap().id.as_deref(), Some("x"));
        assert_eq!(source.next().unwrap_err().to_string(), "in.csv line 3: the row has an empty id");
        let error = Csv::open("in.csv".into(), b"a,b\n".as_slice(), taken("c"), None).err().unwrap();
        assert_eq!(error.to_string(), "--id: in.csv has no column \"c\"; its columns are a, b");
    }

    #[test]
    fn the_key_must_be_a_column() {
        let error = rows(b"a,b\n1,2\n", Some("c"), None).1.unwrap();
        assert_eq!(error, "--key: in.csv has no column \"c\"; its columns are a, b");
    }
}
