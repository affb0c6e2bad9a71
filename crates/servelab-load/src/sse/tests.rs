use proptest::prelude::*;

use super::*;

type Owned = (Vec<u8>, Vec<u8>);

fn collect(parts: &[&[u8]]) -> Vec<Owned> {
    let mut scanner = Scanner::new();
    let mut events = Vec::new();
    for part in parts {
        scanner.feed(part, |event| events.push((event.kind.to_vec(), event.data.to_vec()))).unwrap();
    }
    scanner.finish(|event| events.push((event.kind.to_vec(), event.data.to_vec())));
    events
}

fn data(events: &[Owned]) -> Vec<String> {
    events.iter().map(|(_, data)| String::from_utf8_lossy(data).into_owned()).collect()
}

fn check(input: &str, expected: &[&str]) {
    assert_eq!(data(&collect(&[input.as_bytes()])), expected, "whole: {input:?}");
    for cut in 0..=input.len() {
        let (head, tail) = input.as_bytes().split_at(cut);
        assert_eq!(data(&collect(&[head, tail])), expected, "cut at {cut}: {input:?}");
    }
    let bytes: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
    assert_eq!(data(&collect(&bytes)), expected, "byte by byte: {input:?}");
}

#[test]
fn framing_rules() {
    check("data: a\n\n", &["a"]);
    check("data:a\n\ndata: b\n\n", &["a", "b"]);
    check("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]);
    check("data: a\r\rdata: b\r\r", &["a", "b"]);
    check(": comment\ndata: a\n: another\n\n", &["a"]);
    check(": only a comment\n\n\n\n", &[]);
    check("data: a\ndata: b\ndata: c\n\n", &["a\nb\nc"]);
    check("data\n\n", &[""]);
    check("data:\n\n", &[""]);
    check("data:  two spaces\n\n", &[" two spaces"]);
    check("id: 3\nretry: 10\ndata: x\n\n", &["x"]);
    check("\u{feff}data: bom\n\n", &["bom"]);
    check("data: ünï😀\n\n", &["ünï😀"]);
    check("data: no blank line", &["no blank line"]);
    check("data: [DONE]\n", &["[DONE]"]);
    check("data: {\"a\":\"x:y\"}\n\n", &["{\"a\":\"x:y\"}"]);
    check("{\"error\":\"naked json\"}\n\n", &[]);
    check("", &[]);
}

#[test]
fn event_field_names_the_next_event_only() {
    let events = collect(&[b"event: error\ndata: a\n\ndata: b\n\n"]);
    assert_eq!(events, [(b"error".to_vec(), b"a".to_vec()), (b"".to_vec(), b"b".to_vec())]);
}

#[test]
fn lines_that_are_no_field_are_counted() {
    let mut scanner = Scanner::new();
    scanner.feed(b"<html>\nwrong port</html>\n", |_| panic!("no event expected")).unwrap();
    assert_eq!(scanner.ignored_lines(), 2);
}

#[test]
fn an_endless_event_is_refused() {
    let mut scanner = Scanner::new();
    let block = vec![b'x'; 1 << 20];
    scanner.feed(b"data: ", |_| ()).unwrap();
    let outcome = (0..40).find_map(|_| scanner.feed(&block, |_| ()).err());
    assert_eq!(outcome, Some(SseError::EventTooLarge));
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]
}

fn stream() -> impl Strategy<Value = (String, Vec<String>)> {
    let event = (prop::collection::vec("[^\r\n]{0,12}", 1..4), any::<bool>());
    (prop::collection::vec(event, 0..8), line_end()).prop_map(|(events, end)| {
        let mut text = String::new();
        let mut expected = Vec::new();
        for (lines, comment) in events {
            if comment {
                text += &format!(": ping{end}");
            }
            for line in &lines {
                text += &format!("data: {line}{end}");
            }
            text += end;
            expected.push(lines.join("\n"));
        }
        (text, expected)
    })
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_events((text, expected) in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let bytes = text.as_bytes();
        let mut points: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        points.extend([0, bytes.len()]);
        points.sort_unstable();
        let parts: Vec<&[u8]> = points.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(data(&collect(&parts)), expected);
    }

    #[test]
    fn never_panics(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        collect(&parts);
    }
}
