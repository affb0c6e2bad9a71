//! Makes a large trace out of a real one: its events again and again, with shifted times and ids, until there is as much
//! text as was asked for. Names, arguments and the order of events stay as a profiler wrote them.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde_json::value::RawValue;

/// Numbers that tell one event from another, and links between events.
const IDS: [&[u8]; 7] =
    [b"id", b"correlation", b"External id", b"Record function id", b"Python id", b"Python parent id", b"Seq"];

/// What is added to a number in every repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shift {
    Time,
    Id,
}

/// Text up to a number, and the number.
#[derive(Debug)]
struct Piece {
    until: usize,
    number: u64,
    shift: Shift,
}

/// A trace, cut at the numbers that change.
#[derive(Debug)]
pub(crate) struct Template {
    header: String,
    text: Vec<u8>,
    pieces: Vec<Piece>,
    /// Repetitions of metadata would say nothing new: they stand once, in front.
    metadata: Vec<u8>,
    events: u64,
    span_us: u64,
    ids: u64,
}

impl Template {
    /// Reads a trace, plain or gzip, of this rank among this many.
    pub(crate) fn read(path: &Path, rank: u32, world_size: u32) -> Result<Self, Box<dyn Error>> {
        let mut bytes = std::fs::read(path)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut text = Vec::new();
            MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut text)?;
            bytes = text;
        }
        // Control characters stand in strings of real traces; serde_json does not take them.
        bytes.iter_mut().filter(|byte| **byte < 0x20).for_each(|byte| *byte = b' ');
        let document: BTreeMap<String, &RawValue> = serde_json::from_slice(&bytes)?;
        let events: Vec<&RawValue> =
            serde_json::from_str(document.get("traceEvents").ok_or("it has no traceEvents")?.get())?;
        let mut out = Self {
            header: header(&document, rank, world_size)?,
            text: Vec::new(),
            pieces: Vec::new(),
            metadata: Vec::new(),
            events: 0,
            span_us: 1,
            ids: 1,
        };
        let (mut first, mut last) = (u64::MAX, 0);
        for event in events {
            let event = event.get().as_bytes();
            let numbers = numbers(event);
            if !numbers.iter().any(|(_, _, shift)| *shift == Shift::Time) || is_metadata(event) {
                out.metadata.extend_from_slice(event);
                out.metadata.extend_from_slice(b",\n  ");
                continue;
            }
            out.events += 1;
            let mut from = 0;
            for (start, end, shift) in numbers {
                let digits = event.get(start..end).unwrap_or_default();
                let Ok(number) = std::str::from_utf8(digits)?.parse::<u64>() else { continue };
                match shift {
                    Shift::Time => (first, last) = (first.min(number), last.max(number)),
                    Shift::Id => out.ids = out.ids.max(number + 1),
                }
                out.text.extend_from_slice(event.get(from..start).unwrap_or_default());
                out.pieces.push(Piece { until: out.text.len(), number, shift });
                from = end;
            }
            out.text.extend_from_slice(event.get(from..).unwrap_or_default());
            out.text.extend_from_slice(b",\n  ");
        }
        out.span_us = last.saturating_sub(first) + 1000;
        Ok(out)
    }

    /// Writes at least so many bytes; says how many repetitions that took, and the bytes.
    pub(crate) fn write(&self, path: &Path, at_least: u64) -> Result<(u64, u64), Box<dyn Error>> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(self.header.as_bytes())?;
        out.write_all(b"\"traceEvents\": [\n  ")?;
        out.write_all(&self.metadata)?;
        let mut bytes = (self.header.len() + self.metadata.len()) as u64;
        let mut round = 0;
        while bytes < at_least || round == 0 {
            let mut from = 0;
            for piece in &self.pieces {
                let literal = self.text.get(from..piece.until).unwrap_or_default();
                out.write_all(literal)?;
                let by = match piece.shift {
                    Shift::Time => self.span_us,
                    Shift::Id => self.ids,
                };
                let number = piece.number + by * round;
                write!(out, "{number}")?;
                bytes += literal.len() as u64 + u64::from(number.max(1).ilog10()) + 1;
                from = piece.until;
            }
            let rest = self.text.get(from..).unwrap_or_default();
            out.write_all(rest)?;
            bytes += rest.len() as u64;
            round += 1;
        }
        // A last event spares the bookkeeping of commas.
        out.write_all(b"{\"ph\": \"i\", \"s\": \"g\", \"name\": \"Record Window End\", \"pid\": \"\", \"tid\": \"\", \"ts\": 0}\n  ]\n}\n")?;
        out.flush()?;
        Ok((round, std::fs::metadata(path)?.len()))
    }

    /// Events of one repetition.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}

/// Everything beside the events, with this rank.
fn header(document: &BTreeMap<String, &RawValue>, rank: u32, world_size: u32) -> Result<String, Box<dyn Error>> {
    let mut out = String::from("{\n");
    for (key, value) in document {
        if key != "traceEvents" && key != "distributedInfo" {
            out.push_str(&format!("{}: {},\n", serde_json::to_string(key)?, value.get()));
        }
    }
    let mut info: serde_json::Map<String, serde_json::Value> = match document.get("distributedInfo") {
        Some(info) => serde_json::from_str(info.get())?,
        None => serde_json::Map::new(),
    };
    info.insert("rank".to_owned(), rank.into());
    info.insert("world_size".to_owned(), world_size.into());
    out.push_str(&format!("\"distributedInfo\": {},\n", serde_json::to_string(&info)?));
    Ok(out)
}

fn is_metadata(event: &[u8]) -> bool {
    let text = String::from_utf8_lossy(event.get(..event.len().min(64)).unwrap_or_default());
    text.replace(' ', "").contains("\"ph\":\"M\"")
}

/// Where the whole part of a time, and where ids stand in the text of an event.
fn numbers(event: &[u8]) -> Vec<(usize, usize, Shift)> {
    let mut out = Vec::new();
    let (mut at, mut depth) = (0, 0);
    while let Some(byte) = event.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let from = at + 1;
                at = from;
                while let Some(byte) = event.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                let key = event.get(from..at).unwrap_or_default();
                let mut value = at + 1;
                while event.get(value).is_some_and(u8::is_ascii_whitespace) {
                    value += 1;
                }
                if event.get(value) == Some(&b':') {
                    value += 1;
                    while event.get(value).is_some_and(u8::is_ascii_whitespace) {
                        value += 1;
                    }
                    let end = value
                        + event.get(value..).map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
                    if end > value {
                        if depth == 1 && key == b"ts" {
                            out.push((value, end, Shift::Time));
                        } else if IDS.contains(&key) {
                            out.push((value, end, Shift::Id));
                        }
                    }
                }
            }
            _ => {}
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_links_move_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (folder.path().join("small.json"), folder.path().join("large.json"));
        let text = "{\"schemaVersion\": 1, \"traceEvents\": [{\"ph\": \"M\", \"ts\": 7, \"name\": \"process_name\"},\
            {\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"a \\\"ts\\\": 3\", \"ts\": 10.125, \"dur\": 2, \"args\": {\"correlation\": 5, \"stream\": 7}}]}";
        std::fs::write(&small, text).unwrap();
        let template = Template::read(&small, 3, 8).unwrap();
        let (rounds, bytes) = template.write(&large, 500).unwrap();
        assert!(rounds > 1 && bytes >= 500 && template.events() == 1);
        let made: serde_json::Value = serde_json::from_slice(&std::fs::read(&large).unwrap()).unwrap();
        assert_eq!(made["distributedInfo"], serde_json::json!({"rank": 3, "world_size": 8}));
        let events = made["traceEvents"].as_array().unwrap();
        // Metadata, the repetitions, the end of the window.
        assert_eq!(events.len() as u64, rounds + 2);
        assert_eq!((&events[1]["ts"], &events[2]["ts"]), (&serde_json::json!(10.125), &serde_json::json!(1010.125)));
        assert_eq!((&events[1]["args"]["correlation"], &events[2]["args"]["correlation"]), (&5.into(), &11.into()));
        assert_eq!(events[2]["name"], "a \"ts\": 3");
        assert_eq!(events[2]["args"]["stream"], 7);
    }
}
