//! serde_json as the oracle: every event of every sample and of generated documents is the same for both.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::number::nanos;
use super::scan::{RawEvent, Visitor, unescape, unquoted};
use super::*;

/// Everything that the scanner tells.
#[derive(Debug, Default, PartialEq)]
struct Record {
    header: Map<String, Value>,
    events: Vec<Event>,
}

#[derive(Debug, Default, PartialEq, Clone)]
struct Event {
    ph: u8,
    cat: String,
    name: String,
    pid: Value,
    tid: Value,
    ts_ns: Option<i64>,
    dur_ns: Option<i64>,
    args: Value,
}

fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(raw)).into_owned()
}

fn clean(raw: &[u8]) -> Vec<u8> {
    raw.iter().map(|b| if *b < 0x20 { b' ' } else { *b }).collect()
}

fn value(raw: &[u8]) -> Value {
    if raw.is_empty() {
        return Value::Null;
    }
    serde_json::from_slice(&clean(raw)).unwrap_or_else(|error| panic!("{error}: {}", text(raw)))
}

impl Visitor for Record {
    fn header(&mut self, key: &[u8], raw: &[u8]) {
        self.header.insert(text(key), value(raw));
    }

    fn skips(&mut self, _ph: u8, _cat: &[u8]) -> bool {
        false
    }

    fn event(&mut self, event: &RawEvent<'_>) {
        self.events.push(Event {
            ph: event.ph,
            cat: text(event.cat),
            name: text(event.name),
            pid: value(event.pid),
            tid: value(event.tid),
            ts_ns: event.ts_ns,
            dur_ns: event.dur_ns,
            args: value(event.args),
        });
    }
}

/// The same by serde_json. `number_text` keeps the digits of times, which a `Value` would not.
fn oracle(document: &[u8]) -> Record {
    use serde::Deserialize;
    #[derive(Deserialize)]
    struct RawTimes<'a> {
        #[serde(borrow, default)]
        ts: Option<&'a serde_json::value::RawValue>,
        #[serde(borrow, default)]
        dur: Option<&'a serde_json::value::RawValue>,
    }
    let document = clean(document);
    let top: Value = serde_json::from_slice(&document).unwrap();
    let (mut header, list) = match top {
        Value::Object(mut map) => {
            let events = map.remove("traceEvents").unwrap_or(json!([]));
            (map, events)
        }
        list => (Map::new(), list),
    };
    header.remove("traceEvents");
    let raw: Vec<Box<serde_json::value::RawValue>> = match serde_json::from_slice::<Value>(&document).unwrap() {
        Value::Object(_) => {
            #[derive(Deserialize)]
            struct Document {
                #[serde(rename = "traceEvents")]
                events: Vec<Box<serde_json::value::RawValue>>,
            }
            serde_json::from_slice::<Document>(&document).map(|document| document.events).unwrap_or_default()
        }
        _ => serde_json::from_slice(&document).unwrap(),
    };
    let events = list.as_array().unwrap().iter().zip(&raw);
    let events = events
        .map(|(event, raw)| {
            let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
            let times: RawTimes<'_> = serde_json::from_str(raw.get()).unwrap();
            let time = |raw: Option<&serde_json::value::RawValue>| {
                let digits = unquoted(raw?.get().as_bytes()).to_vec();
                nanos(&digits).filter(|(_, used)| *used == digits.len()).map(|(value, _)| value)
            };
            Event {
                ph: word("ph").bytes().next().unwrap_or_default(),
                cat: word("cat"),
                name: word("name"),
                pid: event["pid"].clone(),
                tid: event["tid"].clone(),
                ts_ns: time(times.ts),
                dur_ns: time(times.dur),
                args: event["args"].clone(),
            }
        })
        .collect();
    Record { header, events }
}

fn scanned(document: &[u8], piece: usize) -> Record {
    let mut record = Record::default();
    let outcome = pump(Pieces { text: document, piece }, &mut record);
    assert_eq!(outcome.problem(), None);
    assert_eq!(outcome.events, record.events.len() as u64);
    record
}

/// A reader that gives a few bytes at a time.
struct Pieces<'a> {
    text: &'a [u8],
    piece: usize,
}

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.piece.min(self.text.len()).min(buffer.len());
        buffer[..length].copy_from_slice(&self.text[..length]);
        self.text = &self.text[length..];
        Ok(length)
    }
}

/// Sample traces beside the checkout and own ones; empty, and said so, when there are none.
pub(crate) fn samples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["tests/data/samples", "../../../shared/samples/traces"]
        .into_iter()
        .flat_map(|place| ["kineto", "et"].map(|kind| format!("{place}/{kind}")))
    {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        found.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| {
            let name = path.to_string_lossy();
            name.ends_with(".json.gz") && !name.contains("_et")
        }));
    }
    if !root.join("../../../shared/samples/traces").is_dir() {
        eprintln!("skipped: sample traces beside the checkout (../shared/samples/traces); only our own are read");
    }
    // The same file in both places is read once.
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.file_name().map(std::ffi::OsStr::to_owned)));
    found.sort();
    found
}

pub(crate) fn inflate(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(fs::File::open(path).unwrap()).read_to_end(&mut text).unwrap();
    text
}

#[test]
fn every_event_of_every_sample_is_what_serde_json_says() {
    for path in samples() {
        let document = inflate(&path);
        let (ours, theirs) = (scanned(&document, 1 << 20), oracle(&document));
        assert_eq!(ours.header, theirs.header, "{}", path.display());
        assert_eq!(ours.events.len(), theirs.events.len(), "{}", path.display());
        for (ours, theirs) in ours.events.iter().zip(&theirs.events) {
            assert_eq!(ours, theirs, "{}", path.display());
        }
    }
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~\\PC]{0,12}".prop_map(Value::from),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\{}]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

prop_compose! {
    fn any_event()(
        ph in prop::sample::select(vec!["X", "i", "M", "s"]),
        cat in prop::option::of("[a-z_{}\"]{0,10}"),
        name in "\\PC{0,20}",
        pid in scalar(),
        ts in 0_i64..1_000_000_000_000_000,
        dur in prop::option::of(0_i64..1_000_000),
        args in prop::option::of(any_value().prop_filter("an object", Value::is_object)),
        order in any::<u64>(),
    ) -> String {
        let time = |ns: i64| format!("{}.{:03}", ns / 1000, ns % 1000);
        let mut pairs = vec![
            format!("\"ph\": {}", json!(ph)),
            format!("\"name\":{}", json!(name)),
            format!("\"pid\" : {pid}"),
            format!("\"ts\": {}", time(ts)),
        ];
        if let Some(cat) = cat { pairs.push(format!("\"cat\": {}", json!(cat))); }
        if let Some(dur) = dur { pairs.push(format!("\"dur\": {}", time(dur))); }
        if let Some(args) = args { pairs.push(format!("\"args\": {args}")); }
        let mut order = order;
        for idx in (1..pairs.len()).rev() {
            pairs.swap(idx, (order % (idx as u64 + 1)) as usize);
            order /= idx as u64 + 1;
        }
        format!("{{{}}}", pairs.join(", "))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn generated_documents_are_what_serde_json_says(
        events in prop::collection::vec(any_event(), 0..12),
        before in prop::collection::btree_map("[a-z]{1,5}", any_value(), 0..3),
        after in prop::collection::btree_map("[A-Z]{1,5}", any_value(), 0..3),
        piece in 1_usize..200,
    ) {
        let pair = |(key, value): (&String, &Value)| format!("{}: {value}", json!(key));
        let mut parts: Vec<String> = before.iter().map(pair).collect();
        parts.push(format!("\"traceEvents\": [\n{}\n]", events.join(",\n")));
        parts.extend(after.iter().map(pair));
        let document = format!("{{{}}}", parts.join(",\n "));
        prop_assert_eq!(scanned(document.as_bytes(), piece), oracle(document.as_bytes()));
        let list = format!("[{}]", events.join(","));
        prop_assert_eq!(scanned(list.as_bytes(), piece).events, oracle(list.as_bytes()).events);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\ a1.-\n".to_vec()), 0..200)) {
        let mut text = b"{\"traceEvents\": [".to_vec();
        text.extend(bytes);
        static TAXONOMY: std::sync::OnceLock<Taxonomy> = std::sync::OnceLock::new();
        let taxonomy = TAXONOMY.get_or_init(|| Taxonomy::builtin().unwrap());
        let _ = read_text(text.as_slice(), taxonomy);
    }
}
