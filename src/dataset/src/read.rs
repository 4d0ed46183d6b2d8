//! Text formats, and the iterator over all formats.

use crate::table::Parquet;
use crate::{DataError, Place, Result, Row};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// A file's format, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Lines,
    /// An array of objects, an object with one array in it, or lines after all.
    Json,
    /// Comma-separated with a head line (RFC 4180).
    Csv,
    /// Tab-separated with a head line.
    Tsv,
    Parquet,
}

impl Format {
    pub const KNOWN: &str = ".jsonl .ndjson .json .csv .tsv, each also .gz, .parquet";

    /// `None` for names that say nothing.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let plain = name.strip_suffix(".gz");
        let ending = plain.unwrap_or(&name).rsplit_once('.')?.1.to_owned();
        Some(match ending.as_str() {
            "jsonl" | "ndjson" => Format::Lines,
            "json" => Format::Json,
            "csv" => Format::Csv,
            "tsv" => Format::Tsv,
            // compressed inside
            "parquet" if plain.is_none() => Format::Parquet,
            _ => return None,
        })
    }
}

type Text = Box<dyn BufRead + Send>;

/// The rows of one file.
pub struct Rows {
    path: Arc<Path>,
    inner: Inner,
    /// Rows so far.
    count: u64,
    failed: bool,
}

enum Inner {
    Lines { text: Text, line: u64, buffer: String },
    Whole(std::vec::IntoIter<Value>),
    Csv { reader: Box<csv::Reader<Text>>, head: Vec<String>, record: csv::StringRecord },
    Parquet(Box<Parquet>),
}

/// Opens a data file.
///
/// # Errors
/// A name that says no format, I/O errors, a head that is none.
pub fn open(path: &Path) -> Result<Rows> {
    let format = Format::of(path).ok_or_else(|| DataError::File {
        path: path.to_owned(),
        why: format!("the name says no format; known: {}", Format::KNOWN),
    })?;
    let shared: Arc<Path> = path.into();
    let inner = match format {
        Format::Parquet => Inner::Parquet(Box::new(Parquet::open(path)?)),
        Format::Lines => Inner::Lines { text: text(path)?, line: 0, buffer: String::new() },
        Format::Json => json(path)?,
        Format::Csv | Format::Tsv => separated(path, if format == Format::Csv { b',' } else { b'\t' })?,
    };
    Ok(Rows { path: shared, inner, count: 0, failed: false })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> DataError {
    let path = path.to_owned();
    move |source| DataError::Io { path, source }
}

fn text(path: &Path) -> Result<Text> {
    let file = File::open(path).map_err(io(path))?;
    let gz = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let plain: Box<dyn Read + Send> =
        if gz { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(file) };
    let mut text: Text = Box::new(BufReader::with_capacity(1 << 18, plain));
    // a byte order mark of a Windows editor
    if text.fill_buf().map_err(io(path))?.starts_with(b"\xef\xbb\xbf") {
        text.consume(3);
    }
    Ok(text)
}

fn json(path: &Path) -> Result<Inner> {
    let mut text = text(path)?;
    let start = text.fill_buf().map_err(io(path))?;
    let first = start.iter().copied().find(|b| !b.is_ascii_whitespace());
    let wrong = |why: String| DataError::File { path: path.to_owned(), why };
    if first == Some(b'[') {
        let rows: Vec<Value> = serde_json::from_reader(text).map_err(|e| wrong(e.to_string()))?;
        return Ok(Inner::Whole(rows.into_iter()));
    }
    // one object in the whole file: `{"data": [...]}`; else each line is one, as the Hub's `.json` files often are
    let mut all = String::new();
    text.read_to_string(&mut all).map_err(io(path))?;
    let Ok(Value::Object(mut object)) = serde_json::from_str(&all) else {
        return Ok(Inner::Lines {
            text: Box::new(std::io::Cursor::new(all)),
            line: 0,
            buffer: String::new(),
        });
    };
    let lists: Vec<String> = object.iter().filter(|(_, v)| v.is_array()).map(|(k, _)| k.clone()).collect();
    match (lists.as_slice(), object.len()) {
        ([one], 1..=8) => match object.remove(one) {
            Some(Value::Array(rows))
                if rows.iter().all(Value::is_object) && !rows.is_empty() && one != "messages" =>
            {
                Ok(Inner::Whole(rows.into_iter()))
            }
            Some(other) => {
                object.insert(one.clone(), other);
                Ok(Inner::Whole(vec![Value::Object(object)].into_iter()))
            }
            None => Ok(Inner::Whole(Vec::new().into_iter())),
        },
        _ => Ok(Inner::Whole(vec![Value::Object(object)].into_iter())),
    }
}

fn separated(path: &Path, delimiter: u8) -> Result<Inner> {
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text(path)?);
    let wrong = |why: String| DataError::File { path: path.to_owned(), why };
    let head: Vec<String> =
        reader.headers().map_err(|e| wrong(e.to_string()))?.iter().map(str::to_owned).collect();
    if let Some(twice) = head.iter().enumerate().find(|(i, h)| head[..*i].contains(h)) {
        return Err(wrong(format!("the head line has the column {:?} twice", twice.1)));
    }
    Ok(Inner::Csv { reader: Box::new(reader), head, record: csv::StringRecord::new() })
}

impl Rows {
    fn place(&self, number: u64, line: bool) -> Place {
        Place { path: self.path.clone(), number, line }
    }

    fn object(value: Value, at: Place) -> Result<Row> {
        match value {
            Value::Object(values) => Ok(Row { at, values }),
            other => {
                let what = match other {
                    Value::Array(_) => "a list",
                    Value::String(_) => "a text",
                    Value::Null => "null",
                    _ => "a single value",
                };
                Err(DataError::Row {
                    at,
                    why: format!("a row must be an object with columns, this is {what}"),
                })
            }
        }
    }

    fn read(&mut self) -> Option<Result<Row>> {
        let (number, path) = (self.count + 1, self.path.clone());
        match &mut self.inner {
            Inner::Lines { text, line, buffer } => loop {
                buffer.clear();
                match text.read_line(buffer) {
                    Ok(0) => return None,
                    Ok(_) => *line += 1,
                    Err(source) => {
                        return Some(Err(DataError::Row {
                            at: Place { path, number: *line + 1, line: true },
                            why: source.to_string(),
                        }));
                    }
                }
                if buffer.trim().is_empty() {
                    continue;
                }
                let at = Place { path, number: *line, line: true };
                return Some(match serde_json::from_str(buffer) {
                    Ok(value) => Self::object(value, at),
                    Err(e) => Err(DataError::Row { at, why: format!("column {}: {e}", e.column()) }),
                });
            },
            Inner::Whole(rows) => {
                let value = rows.next()?;
                let at = self.place(number, false);
                Some(Self::object(value, at))
            }
            Inner::Csv { reader, head, record } => {
                let at = Place { path, number: reader.position().line(), line: true };
                match reader.read_record(record) {
                    Ok(false) => None,
                    Ok(true) => {
                        let cells = record.iter().map(|c| Value::from(c.to_owned()));
                        let values: Map<String, Value> = head.iter().cloned().zip(cells).collect();
                        Some(Ok(Row { at, values }))
                    }
                    Err(e) => Some(Err(DataError::Row { at, why: e.to_string() })),
                }
            }
            Inner::Parquet(table) => {
                let at = Place { path, number, line: false };
                Some(match table.next()? {
                    Ok(value) => Self::object(value, at),
                    Err(why) => Err(DataError::Row { at, why }),
                })
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    /// Nothing follows an error: what comes after it cannot be trusted.
    fn next(&mut self) -> Option<Result<Row>> {
        if self.failed {
            return None;
        }
        let next = self.read()?;
        self.count += 1;
        self.failed = next.is_err();
        Some(next)
    }
}
