//! What zlib packs, this unpacks; what is cut or damaged gives a true beginning and an error.

use std::io::{ErrorKind, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::GzipReader;

fn pack(text: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// What came, and whether it ended in an error.
fn unpack(packed: &[u8]) -> (Vec<u8>, Option<std::io::Error>) {
    let mut text = Vec::new();
    let error = GzipReader::new(packed).read_to_end(&mut text).err();
    (text, error)
}

/// Text like a trace's: long repetitions with small changes, some noise.
fn trace_like(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::new();
    for idx in 0..n {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let noise = state >> 33;
        writeln!(
            out,
            "  {{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"void at::native::vectorized_elementwise_kernel<{}, c10::BFloat16>\", \"ts\": {}.{:03}, \"dur\": {}, \"args\": {{\"correlation\": {idx}}}}},",
            noise % 7,
            4_458_676_522_690 + idx * 17,
            noise % 1000,
            noise % 100_000
        )
        .unwrap();
    }
    out
}

#[test]
fn large_texts_come_back_at_every_level() {
    let text = trace_like(20_000, 7);
    for level in [0, 1, 4, 6, 9] {
        let packed = pack(&text, level);
        let (found, error) = unpack(&packed);
        assert!(error.is_none(), "level {level}: {error:?}");
        assert!(found == text, "level {level}");
    }
}

#[test]
fn members_follow_one_another_and_padding_ends_the_stream() {
    let mut packed = pack(b"first ", 6);
    packed.extend(pack(b"", 6));
    packed.extend(pack(&trace_like(3000, 3), 1));
    packed.extend(pack(b"last", 0));
    let expected = [b"first ".as_slice(), &trace_like(3000, 3), b"last"].concat();
    assert!(unpack(&packed).0 == expected && unpack(&packed).1.is_none());
    packed.extend([0; 512]);
    assert!(unpack(&packed).0 == expected && unpack(&packed).1.is_none());
}

#[test]
fn names_and_comments_in_headers_are_passed_over() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("kineto_trace_0.json")
        .comment("a comment")
        .extra(vec![7; 300])
        .write(Vec::new(), Compression::best());
    encoder.write_all(b"text").unwrap();
    let (found, error) = unpack(&encoder.finish().unwrap());
    assert!(found == b"text" && error.is_none(), "{error:?}");
}

#[test]
fn a_cut_at_any_byte_gives_the_beginning_and_an_error() {
    let text = trace_like(60, 11);
    for level in [0, 6] {
        let packed = pack(&text, level);
        for cut in 0..packed.len() {
            let (found, error) = unpack(&packed[..cut]);
            assert!(text.starts_with(&found), "level {level}, cut at {cut}");
            assert!(error.is_some(), "level {level}, cut at {cut}");
        }
    }
}

#[test]
fn damage_is_told_and_nothing_panics() {
    let text = trace_like(40, 5);
    let packed = pack(&text, 6);
    for at in 0..packed.len() {
        let mut damaged = packed.clone();
        damaged[at] ^= 0x55;
        let (found, error) = unpack(&damaged);
        // Time, name of the system and flags for texts in the header mean nothing.
        assert!(error.is_some() || found == text, "byte {at}");
    }
    assert!(unpack(b"no gzip at all").1.is_some());
    assert!(unpack(b"").1.is_some());
}

/// A match may not reach into the member before: what zlib calls damage must not become text.
#[test]
fn a_member_knows_nothing_of_the_one_before() {
    // A block with fixed codes: a match of length 3 at distance 4, then the end.
    let match_first = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x03, 0x62, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let before = pack(b"seen before", 6);
    let (text, error) = unpack(&[before.as_slice(), &match_first].concat());
    assert_eq!((text.as_slice(), error.map(|error| error.kind())), (&b"seen before"[..], Some(ErrorKind::InvalidData)));
}

proptest! {
    #[test]
    fn any_text_in_any_pieces_comes_back(
        text in prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), any::<u8>()], 0..3000),
        repeated in 1_usize..40,
        level in 0_u32..=9,
        piece in 1_usize..700,
    ) {
        let text = text.repeat(repeated);
        let packed = pack(&text, level);
        let mut reader = GzipReader::new(Few { text: &packed, piece });
        let mut found = Vec::new();
        reader.read_to_end(&mut found).unwrap();
        prop_assert!(found == text);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        packed.extend(bytes);
        let mut theirs = Vec::new();
        let is_right = flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut theirs).is_ok();
        let (ours, error) = unpack(&packed);
        prop_assert!(!is_right || (error.is_none() && ours == theirs));
    }
}

/// Gives a few bytes at a time.
struct Few<'a> {
    text: &'a [u8],
    piece: usize,
}

impl Read for Few<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.piece.min(self.text.len()).min(buffer.len());
        buffer[..n].copy_from_slice(&self.text[..n]);
        self.text = &self.text[n..];
        Ok(n)
    }
}
