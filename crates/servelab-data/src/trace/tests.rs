use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::tokenizer::Tokenizer;

const AZURE_2023: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
    2023-11-16 18:15:46.6805900,374,44\n\
    2023-11-16 18:15:50.9951690,396,109\n\
    2023-11-16 18:15:51.2224670,879,55\r\n";
const AZURE_2024: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
    2024-05-10 00:00:00.009930+00:00,2162,5\n\
    2024-05-10 00:00:00.017335+00:00,2399,6\n";
const BURSTGPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    5,ChatGPT,472,18,490,Conversation log\n\
    45,ChatGPT,1087,230,1317,Conversation log\n\
    118,GPT-4,417,0,417,API log\n\
    120,GPT-4,417,276,693,\"API, log\"\n";
const BURSTGPT_SESSIONS: &str = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    5.5,12,0.7,ChatGPT,472,18,490,Conversation log\n";
const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 1100, "output_length": 6, "hash_ids": [0, 1, 3]}

{"timestamp": 3000.5, "input_length": 600, "output_length": 7, "hash_ids": [9, 10]}
{"timestamp": 9000, "input_length": 1030, "output_length": 8, "hash_ids": [0, 1, 2]}
"#;

fn read(text: &str, spec: &TraceSpec) -> Result<Vec<TraceRecord>, String> {
    let reader = TraceReader::new(Cursor::new(text.to_owned()), Path::new("t"), spec).map_err(|e| e.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn all(text: &str) -> Vec<TraceRecord> {
    read(text, &TraceSpec::new("t")).unwrap()
}

fn shape(records: &[TraceRecord]) -> Vec<(i64, u32, u32)> {
    records.iter().map(|record| (record.at_ns, record.input_tokens, record.output_tokens)).collect()
}

#[test]
fn formats() {
    assert_eq!(shape(&all(AZURE_2023)), [(0, 374, 44), (4_314_579_000, 396, 109), (4_541_877_000, 879, 55)]);
    assert_eq!(shape(&all(AZURE_2024)), [(0, 2162, 5), (7_405_000, 2399, 6)]);
    // The failed request, without response tokens, is left out.
    assert_eq!(shape(&all(BURSTGPT)), [(0, 472, 18), (40_000_000_000, 1087, 230), (115_000_000_000, 417, 276)]);
    assert_eq!(shape(&all(BURSTGPT_SESSIONS)), [(0, 472, 18)]);
    let mooncake = all(MOONCAKE);
    assert_eq!(mooncake[1].hash_ids, [0, 1, 3]);
    assert_eq!(mooncake[2].at_ns, 3_000_500_000);
    assert_eq!((mooncake[2].line, mooncake.len()), (4, 4));
}

#[test]
fn summaries_count_what_is_left_out() {
    let spec = TraceSpec { max_input_tokens: Some(500), ..TraceSpec::new("t") };
    let reader = TraceReader::new(Cursor::new(BURSTGPT), Path::new("t"), &spec).unwrap();
    let summary = reader.summarise().unwrap();
    assert_eq!(summary.format, TraceFormat::Burstgpt);
    assert_eq!(summary.counts, TraceCounts { used: 2, without_tokens: 1, too_long: 1, outside: 0 });
    assert_eq!((summary.last_ns, summary.max_input_tokens, summary.max_output_tokens), (115_000_000_000, 472, 276));
    let spec = TraceSpec { max_input_tokens: Some(5), ..TraceSpec::new("t") };
    let reader = TraceReader::new(Cursor::new(BURSTGPT), Path::new("t"), &spec).unwrap();
    assert!(reader.summarise().unwrap_err().to_string().contains("3 are longer"));
}

#[test]
fn slices_begin_at_their_own_zero() {
    let slice = |from_s, to_s, max_requests| {
        let spec = TraceSpec { from_s, to_s, max_requests, ..TraceSpec::new("t") };
        shape(&read(BURSTGPT, &spec).unwrap())
    };
    assert_eq!(slice(Some(30.0), None, None), [(10_000_000_000, 1087, 230), (85_000_000_000, 417, 276)]);
    assert_eq!(slice(None, Some(40.0), None), [(0, 472, 18)]);
    assert_eq!(slice(None, None, Some(2)).len(), 2);
    assert_eq!(slice(Some(500.0), None, None), []);
}

#[test]
fn small_disorder_is_sorted_and_large_disorder_is_an_error() {
    let line = |t: usize| format!("{{\"timestamp\": {t}, \"input_length\": 5, \"output_length\": 1}}\n");
    let shuffled: String = [3, 1, 2, 0, 9, 5].into_iter().map(line).collect();
    let times: Vec<i64> = all(&shuffled).iter().map(|record| record.at_ns / 1_000_000).collect();
    assert_eq!(times, [0, 1, 2, 3, 5, 9]);
    let mut late: String = (10..REORDER_REQUESTS + 20).map(line).collect();
    late.push_str(&line(3));
    let error = read(&late, &TraceSpec::new("t")).unwrap_err();
    assert!(error.contains("line 4107: was sent 0.0") && error.contains("sort the file"), "{error}");
}

#[test]
fn malformed_files_say_where_and_what() {
    let check = |text: &str, parts: &[&str]| {
        let error = read(text, &TraceSpec::new("t")).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    check("", &["it is empty"]);
    check("a,b,c\n1,2,3\n", &["line 1", "columns [a, b, c]", "Azure", "BurstGPT", "Mooncake"]);
    check("TIMESTAMP,ContextTokens,GeneratedToken\n", &["no column `GeneratedTokens`", "is it `GeneratedToken`?"]);
    check(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2\n2023-11-16 18:15:47,1\n",
        &["line 3", "has 2 columns, the header has 3"],
    );
    check(
        "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n",
        &["line 2", "column `TIMESTAMP` holds `yesterday`", "2023-11-16"],
    );
    check(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,-1,2\n",
        &["column `ContextTokens` holds `-1`", "whole number of tokens"],
    );
    check(
        "Timestamp,Model,Request tokens,Response tokens\n1,x,99999999,1\n",
        &["`Request tokens`", "at most 10,000,000"],
    );
    check("Timestamp,Model,Request tokens,Response tokens\nx,x,9,1\n", &["`Timestamp` holds `x`", "seconds"]);
    check("{\"timestamp\": 1}\n", &["line 1", "no `input_length`"]);
    check("{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}\n", &["`timestamp` is -1"]);
    check("{\"timestamp\": 1, \"input_length\": 1.5, \"output_length\": 1}\n", &["is no request", "column"]);
    check(
        "{\"timestamp\": 1, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1, 2]}\n",
        &["names 2 blocks of 512", "has 1", "block_tokens"],
    );
    check("{\"timestamp\": 1, \"input_length\": 1, \"output_length\": 1}\n{broken\n", &["line 2"]);
}

fn prompts(text: &str, spec: &TraceSpec, stream: &str, tokenizer: &Tokenizer) -> Vec<String> {
    let reader = TraceReader::new(Cursor::new(text.to_owned()), Path::new("t"), spec).unwrap();
    let prompts = TracePrompts::new(reader, 7, stream, tokenizer).unwrap();
    prompts
        .map(|prompt| {
            let prompt = prompt.unwrap().prompt;
            let text = prompt.body.text().into_owned();
            assert_eq!(tokenizer.count(&text).unwrap(), prompt.input_tokens, "{}", prompt.id);
            text
        })
        .collect()
}

/// Tokens that two texts have in common at their start.
fn shared_tokens(a: &str, b: &str, tokenizer: &Tokenizer) -> usize {
    let (a, b) = (tokenizer.encode(a).unwrap(), tokenizer.encode(b).unwrap());
    a.iter().zip(&b).take_while(|(a, b)| a == b).count()
}

#[test]
fn equal_blocks_have_equal_text_and_counts_are_exact() {
    for tokenizer in [Tokenizer::builtin(), crate::synth::byte_tokenizer(), crate::synth::metaspace_tokenizer()] {
        let texts = prompts(MOONCAKE, &TraceSpec::new("t"), "a", &tokenizer);
        let shared = |i: usize, j: usize| shared_tokens(&texts[i], &texts[j], &tokenizer);
        assert_eq!(texts[0], texts[3], "the same blocks are the same prompt");
        // Two full blocks in common. A tokenizer that merges words may cut the border differently.
        assert!((1022..1030).contains(&shared(0, 1)), "{}", shared(0, 1));
        assert!(shared(0, 2) < 100, "{}", shared(0, 2));
        let other = prompts(MOONCAKE, &TraceSpec::new("t"), "b", &tokenizer);
        assert!(shared_tokens(&texts[0], &other[0], &tokenizer) < 100, "streams share no text");
    }
}

#[test]
fn block_size_can_be_stated() {
    let tokenizer = Tokenizer::builtin();
    let spec = TraceSpec { block_tokens: Some(16), ..TraceSpec::new("t") };
    let trace = "{\"timestamp\": 0, \"input_length\": 40, \"output_length\": 1, \"hash_ids\": [1, 2, 3]}\n\
        {\"timestamp\": 1, \"input_length\": 64, \"output_length\": 1, \"hash_ids\": [1, 2, 5, 6]}\n\
        {\"timestamp\": 2, \"input_length\": 64, \"output_length\": 1, \"hash_ids\": [1, 2]}\n";
    let texts = prompts(trace, &spec, "a", &tokenizer);
    assert_eq!(shared_tokens(&texts[0], &texts[1], &tokenizer), 32);
    // Blocks without an id are the request's own.
    assert!((32..40).contains(&shared_tokens(&texts[1], &texts[2], &tokenizer)));
}

#[test]
fn every_length_is_reached() {
    let tokenizer = Tokenizer::builtin();
    let lines: String = (1..60)
        .map(|n| format!("{{\"timestamp\": {n}, \"input_length\": {n}, \"output_length\": 1, \"hash_ids\": [{n}]}}\n"))
        .collect();
    assert_eq!(prompts(&lines, &TraceSpec::new("t"), "a", &tokenizer).len(), 59);
    let spec = TraceSpec { block_tokens: Some(3), ..TraceSpec::new("t") };
    let line =
        "{\"timestamp\": 0, \"input_length\": 31, \"output_length\": 1, \"hash_ids\": [1,2,3,4,5,6,7,8,9,10,11]}\n";
    prompts(line, &spec, "a", &tokenizer);
    prompts(AZURE_2023, &TraceSpec::new("t"), "a", &tokenizer);
}

proptest! {
    #[test]
    fn any_bytes_give_records_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), header in 0..4_usize) {
        let mut text = ["", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "Timestamp,Request tokens,Response tokens\n", "{"][header]
            .as_bytes()
            .to_vec();
        text.extend(bytes);
        for format in [TraceFormat::Auto, TraceFormat::Mooncake, TraceFormat::Azure, TraceFormat::Burstgpt] {
            let spec = TraceSpec { format, ..TraceSpec::new("t") };
            let Ok(reader) = TraceReader::new(Cursor::new(text.clone()), Path::new("t"), &spec) else { continue };
            let mut last = 0;
            for record in reader {
                let Ok(record) = record else { break };
                prop_assert!(record.at_ns >= last && record.input_tokens > 0 && record.output_tokens > 0);
                last = record.at_ns;
            }
        }
    }

    #[test]
    fn any_order_within_the_bound_comes_out_sorted(mut times in prop::collection::vec(0..1_000_000_u32, 1..200)) {
        let text: String = std::iter::once("Timestamp,Request tokens,Response tokens\n".to_owned())
            .chain(times.iter().map(|t| format!("{t},1,1\n")))
            .collect();
        let got: Vec<i64> = all(&text).iter().map(|record| record.at_ns).collect();
        times.sort_unstable();
        let expected: Vec<i64> = times.iter().map(|t| i64::from(t - times[0]) * 1_000_000_000).collect();
        prop_assert_eq!(got, expected);
    }
}
