//! The same rows from every format, and errors that say where.

use dataset::{DataError, Row, open};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::basic::Compression as Codec;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn write(dir: &tempfile::TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn values(path: &Path) -> Vec<Value> {
    open(path).unwrap().map(|r| Value::Object(r.unwrap().values)).collect()
}

fn error(path: &Path) -> String {
    let first = |rows: dataset::Rows| rows.collect::<Result<Vec<Row>, DataError>>().map(|_| ());
    open(path).and_then(first).unwrap_err().to_string()
}

#[test]
fn text_formats_give_the_same_rows_compressed_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let want =
        [json!({"prompt": "a, \"b\"\nc", "completion": "ü"}), json!({"prompt": "", "completion": "z"})];
    let lines = format!("{}\n\n{}\n", want[0], want[1]);
    assert_eq!(values(&write(&dir, "a.jsonl", &lines)), want);
    // lines behind the ending .json, as the Hub often has them
    assert_eq!(values(&write(&dir, "b.json", &lines)), want);
    assert_eq!(values(&write(&dir, "c.json", json!(want).to_string())), want);
    assert_eq!(values(&write(&dir, "d.json", json!({"version": 1, "data": want}).to_string())), want);
    assert_eq!(values(&write(&dir, "e.csv", "\u{feff}prompt,completion\n\"a, \"\"b\"\"\nc\",ü\n,z\n")), want);
    assert_eq!(
        values(&write(&dir, "f.tsv", "prompt\tcompletion\nx\ty\n")),
        [json!({"prompt": "x", "completion": "y"})]
    );
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    assert_eq!(values(&write(&dir, "g.jsonl.gz", gz.finish().unwrap())), want);
    let one = json!({"messages": [{"role": "user", "content": "x"}]});
    assert_eq!(values(&write(&dir, "h.json", one.to_string())), [one]);
}

/// Two columns of text, a number, and a list of messages, in two row groups.
fn table(dir: &tempfile::TempDir, codec: Codec) -> PathBuf {
    let schema = "message m { required binary prompt (UTF8); optional int64 n;
        required group messages (LIST) { repeated group list { optional group element {
            optional binary role (UTF8); optional binary content (UTF8); } } } }";
    let path = dir.path().join(format!("t-{codec:?}.parquet").replace(['(', ')'], "-"));
    let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(&path).unwrap(), schema, properties).unwrap();
    let text = |s: &str| ByteArray::from(s.as_bytes().to_vec());
    for group in 0..2i64 {
        let mut rows = writer.next_row_group().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[text("a"), text("ü")], None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[group], Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        for values in [["user", "assistant", "user"], ["q", "w", "r"]] {
            let values = values.map(text);
            let mut column = rows.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&[3, 3, 3]), Some(&[0, 1, 0])).unwrap();
            column.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.close().unwrap();
    path
}

#[test]
fn parquet_rows_are_json_with_lists_groups_and_nulls() {
    let dir = tempfile::tempdir().unwrap();
    for codec in [Codec::UNCOMPRESSED, Codec::SNAPPY, Codec::GZIP(Default::default()), Codec::LZ4_RAW] {
        let rows = values(&table(&dir, codec));
        assert_eq!(rows.len(), 4, "{codec:?}");
        assert_eq!(
            rows[2],
            json!({"prompt": "a", "n": 1, "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "w"}]})
        );
        assert_eq!(rows[1]["n"], Value::Null);
        let shaped = dataset::shape(rows[0].as_object().unwrap(), None).unwrap();
        assert_eq!(shaped["messages"][1]["content"], "w");
    }
}

#[test]
fn a_damaged_file_is_an_error_with_its_place_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let said = error(&write(&dir, "a.jsonl", "{\"a\": 1}\n\n{\"a\": \n"));
    assert!(said.contains("a.jsonl:3:"), "{said}");
    let said = error(&write(&dir, "b.jsonl", "[1]\n"));
    assert!(said.contains("b.jsonl:1: a row must be an object"), "{said}");
    let said = error(&write(&dir, "c.csv", "a,b\n1,2\n1\n"));
    assert!(said.contains("c.csv:3"), "{said}");
    let said = error(&write(&dir, "d.csv", "a,a\n1,2\n"));
    assert!(said.contains("twice"), "{said}");
    let said = error(&write(&dir, "e.jsonl.gz", "not gzip"));
    assert!(said.contains("e.jsonl.gz"), "{said}");
    let said = error(&write(&dir, "f.json", "[{\"a\": 1}, 2]"));
    assert!(said.contains("row 2"), "{said}");
    let said = error(&write(&dir, "g.bin", ""));
    assert!(said.contains(".parquet"), "{said}");
    let whole = std::fs::read(table(&dir, Codec::SNAPPY)).unwrap();
    assert!(error(&write(&dir, "h.parquet", &whole[..whole.len() / 2])).contains("h.parquet"));
    // whatever byte is wrong: rows or an error, no panic and no end without either
    for at in (0..whole.len()).step_by(7) {
        let mut bad = whole.clone();
        bad[at] ^= 0x5a;
        let path = write(&dir, "i.parquet", &bad);
        if let Ok(rows) = open(&path) {
            for row in rows.take(100) {
                if row.is_err() {
                    break;
                }
            }
        }
    }
}
