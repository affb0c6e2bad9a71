//! Identity: canonical JSON (RFC 8785), point and cell ids, and the older 8-digit hash of documents 000 and 001. What
//! enters an id is decided in `expand`; here is only how it is hashed.

use std::fmt::Write as _;

use md5::Md5;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::ids::{CellId, PointId};

/// Version of the way ids are computed. Stored in every plan; a reader refuses one it does not know.
pub const ID_SCHEME: u32 = 1;

/// Hex digits of an id: 128 bits, so that a million points collide with probability below 10⁻²⁶.
const ID_HEX_DIGITS: usize = 32;

/// RFC 8785 text of a value: sorted keys, shortest numbers, no white space.
pub fn canonical_json(value: &Value) -> String {
    // The canonicalizer fails only on what JSON cannot hold, which a `Value` cannot hold either.
    serde_json_canonicalizer::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Id over bytes that are canonical already.
pub fn point_id_of_canonical(canonical: &[u8]) -> PointId {
    PointId::new(short_sha256(canonical))
}

/// Id of a point's content.
pub fn point_id(content: &Value) -> PointId {
    point_id_of_canonical(canonical_json(content).as_bytes())
}

/// Id of a cell's content.
pub fn cell_id(content: &Value) -> CellId {
    CellId::new(short_sha256(canonical_json(content).as_bytes()))
}

/// SHA-256 as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn short_sha256(bytes: &[u8]) -> String {
    let mut digits = sha256_hex(bytes);
    digits.truncate(ID_HEX_DIGITS);
    digits
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The older hash: `md5(json.dumps(config, sort_keys=True))[:8]`, with Python's separators and number spelling.
pub fn legacy_md5_8(config: &serde_json::Map<String, Value>) -> String {
    let mut text = String::new();
    python_json(&Value::Object(config.clone()), &mut text);
    let mut digits = hex(&Md5::digest(text.as_bytes()));
    digits.truncate(8);
    digits
}

/// `json.dumps(value, sort_keys=True)`: `", "` and `": "`, ASCII only, `repr` of floats. `serde_json` maps are sorted by
/// code point already, which is Python's order.
fn python_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => python_float(float, out),
            _ => {
                let _ = write!(out, "{number}");
            }
        },
        Value::String(text) => python_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                python_json(item, out);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            out.push('{');
            for (i, (key, item)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                python_string(key, out);
                out.push_str(": ");
                python_json(item, out);
            }
            out.push('}');
        }
    }
}

fn python_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// Python's `repr(float)`: shortest digits; exponent form below 1e-4 and from 1e16 on, with two exponent digits.
fn python_float(float: f64, out: &mut String) {
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
        let _ = write!(out, "{digits}e{sign}{exponent:0>2}");
    } else if float.fract() == 0.0 {
        let _ = write!(out, "{float:.1}");
    } else {
        let _ = write!(out, "{float}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn python_spelling() {
        let check = |value: Value, expected: &str| {
            let mut out = String::new();
            python_json(&value, &mut out);
            assert_eq!(out, expected);
        };
        // Each right-hand side was printed by CPython's json.dumps(value, sort_keys=True).
        check(json!({"b": 0.9, "a": [1, true, null]}), r#"{"a": [1, true, null], "b": 0.9}"#);
        check(json!(1e16), "1e+16");
        check(json!(1.5e300), "1.5e+300");
        check(json!(0.00001), "1e-05");
        check(json!(0.0001), "0.0001");
        check(json!(123456.0), "123456.0");
        check(json!("é\u{1F600}\"\n\u{7f}"), r#""\u00e9\ud83d\ude00\"\n\u007f""#);
    }

    #[test]
    fn legacy_hash_of_document_000() {
        let config = json!({
            "model_path": "THUDM/glm-4-9b-chat", "num_nodes": 8, "gpus_per_node": 8, "tensor_parallel_size": 1,
            "data_parallel_size": 64, "data_parallel_size_local": 8, "enable_expert_parallel": true,
            "distributed_executor_backend": "ray", "dtype": "bfloat16", "trust_remote_code": true,
            "max_seq_len_to_capture": 8192, "block_size": 16, "swap_space_gb": 20, "enable_chunked_prefill": true,
            "max_num_partial_prefills": 1, "num_scheduler_steps": 2, "max_model_len": 32768,
            "name": "baseline_conservative", "gpu_memory_utilization": 0.9, "max_num_batched_tokens": 8192,
            "max_num_seqs": 128, "kv_cache_dtype": "auto", "enable_prefix_caching": false, "all2all_backend": "pplx",
            "enable_eplb": false,
        });
        assert_eq!(legacy_md5_8(config.as_object().unwrap()), "9b6f4b39");
    }

    #[test]
    fn spelling_and_order_never_change_an_id() {
        let a: Value = serde_json::from_str(r#"{"x": 8192.0, "y": 0.90, "z": 1e2}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{"z": 100, "y": 9e-1, "x": 8192}"#).unwrap();
        assert_eq!(point_id(&a), point_id(&b));
        assert_eq!(point_id(&a).as_str().len(), ID_HEX_DIGITS);
    }
}
