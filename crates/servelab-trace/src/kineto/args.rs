//! The arguments of device events and runtime calls that metrics need.

use super::number::integer;
use super::scan::{pairs, unquoted};
use crate::model::Precision;

/// Arguments of a kernel, copy or memset. Texts are as written between their quotes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DeviceArgs<'a> {
    pub device: Option<u32>,
    pub stream: Option<u32>,
    pub correlation: u32,
    pub blocks: u32,
    pub bytes: Option<u64>,
    pub collective: CollectiveArgs<'a>,
}

/// Arguments of a collective.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CollectiveArgs<'a> {
    pub kind: Option<&'a [u8]>,
    pub in_elements: Option<u64>,
    pub out_elements: Option<u64>,
    pub group_size: Option<u32>,
    pub dtype: Option<&'a [u8]>,
    pub group: Option<&'a [u8]>,
    pub group_ranks: Option<&'a [u8]>,
    pub seq: Option<u64>,
}

fn whole<T: TryFrom<i64>>(value: &[u8]) -> Option<T> {
    integer(value).and_then(|value| T::try_from(value).ok())
}

/// The low 32 bits of a correlation.
pub fn correlation(value: &[u8]) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "both sides of the link are cut alike")]
    integer(value).map_or(0, |value| value.cast_unsigned() as u32)
}

/// Reads the arguments of a device event.
pub fn device(args: &[u8]) -> DeviceArgs<'_> {
    let mut out = DeviceArgs::default();
    for (key, value) in pairs(args) {
        match key {
            b"device" => out.device = whole(value),
            b"stream" => out.stream = whole(value),
            b"correlation" => out.correlation = correlation(value),
            b"grid" => out.blocks = product(value),
            b"bytes" => out.bytes = whole(value),
            _ => collective_arg(&mut out.collective, key, value),
        }
    }
    out
}

fn collective_arg<'a>(out: &mut CollectiveArgs<'a>, key: &[u8], value: &'a [u8]) {
    match key {
        b"Collective name" => out.kind = Some(unquoted(value)).filter(|kind| !kind.is_empty()),
        b"In msg nelems" => out.in_elements = whole(value),
        b"Out msg nelems" => out.out_elements = whole(value),
        b"Group size" => out.group_size = whole(value),
        b"dtype" => out.dtype = Some(unquoted(value)),
        b"Process Group Name" => out.group = Some(unquoted(value)),
        b"Process Group Ranks" => out.group_ranks = Some(unquoted(value)).filter(|ranks| !ranks.is_empty()),
        b"Seq" => out.seq = whole(value),
        _ => {}
    }
}

/// Correlation of a runtime call.
pub fn call_correlation(args: &[u8]) -> u32 {
    pairs(args).find(|(key, _)| *key == b"correlation").map_or(0, |(_, value)| correlation(value))
}

/// `[16, 8, 2]` → 256; 0 when it is no list of positive numbers.
fn product(list: &[u8]) -> u32 {
    let Some(inside) = list.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) else { return 0 };
    let mut product: u32 = 1;
    for part in inside.split(|b| *b == b',') {
        match whole::<u32>(part.trim_ascii()) {
            Some(n) => product = product.saturating_mul(n),
            None => return 0,
        }
    }
    product
}

/// Bytes of one element of a type as PyTorch names it.
pub fn element_bytes(dtype: &[u8]) -> Option<u32> {
    let name = dtype.to_ascii_lowercase();
    let name = name.strip_prefix(b"c10::").unwrap_or(&name);
    Some(match name {
        b"byte" | b"char" | b"bool" | b"int8" | b"uint8" => 1,
        n if n.starts_with(b"float8") => 1,
        b"half" | b"bfloat16" | b"short" | b"float16" | b"int16" => 2,
        b"float" | b"int" | b"float32" | b"int32" => 4,
        b"double" | b"long" | b"float64" | b"int64" | b"complexfloat" | b"long int" => 8,
        b"complexdouble" => 16,
        _ => return None,
    })
}

/// Floating-point operations of a matrix product and the precision of its operands, from the shapes and types that
/// `record_shapes` keeps; `None` for anything else.
pub fn matmul_flops(name: &[u8], args: &[u8]) -> Option<(f64, Precision)> {
    let (a, b) = match name {
        b"aten::mm" | b"aten::bmm" | b"aten::_scaled_mm" => (0, 1),
        b"aten::addmm" | b"aten::baddbmm" => (1, 2),
        _ => return None,
    };
    let dims = pairs(args).find(|(key, _)| *key == b"Input Dims")?.1;
    let types = pairs(args).find(|(key, _)| *key == b"Input type").map_or(&b""[..], |(_, types)| types);
    let precision = precision(types, a);
    let shapes = shapes(dims);
    let (a, b) = (shapes.get(a)?, shapes.get(b)?);
    let (batch, rows, inner, columns) = match (a.as_slice(), b.as_slice()) {
        ([m, k], [k2, n]) if k == k2 => (1.0, *m, *k, *n),
        ([batch, m, k], [batch2, k2, n]) if k == k2 && batch == batch2 => (*batch, *m, *k, *n),
        _ => return None,
    };
    Some((2.0 * batch * rows * inner * columns, precision))
}

/// The precision at a place of `["c10::BFloat16", "float", …]`.
fn precision(types: &[u8], place: usize) -> Precision {
    // Quotes stand at both ends of each text.
    let name = types.split(|b| *b == b'"').skip(1).step_by(2).nth(place).unwrap_or_default();
    match element_bytes(name) {
        Some(1) if name.to_ascii_lowercase().starts_with(b"c10::float8") => Precision::Fp8,
        Some(2) => Precision::Half,
        Some(4) => Precision::Single,
        _ => Precision::Unknown,
    }
}

/// `[[1, 2], [3], []]` → its numbers.
fn shapes(list: &[u8]) -> Vec<Vec<f64>> {
    let mut out = Vec::new();
    let mut depth = 0;
    let mut number: Option<f64> = None;
    for byte in list {
        match byte {
            b'[' => {
                depth += 1;
                if depth == 2 {
                    out.push(Vec::new());
                }
            }
            b'0'..=b'9' => number = Some(number.unwrap_or(0.0) * 10.0 + f64::from(byte - b'0')),
            b',' | b']' => {
                if let (Some(value), Some(shape)) = (number.take(), out.last_mut()) {
                    shape.push(value);
                }
                if *byte == b']' {
                    depth -= 1;
                }
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_as_written() {
        let args = device(
            br#"{"External id": 8, "device": 2, "stream": "7", "correlation": 4294967299, "grid": [16, 8, 2], "bytes": 2560, "Collective name": "allreduce", "In msg nelems": 10, "Out msg nelems": 20, "Group size": 8, "dtype": "BFloat16", "Process Group Name": "0", "Process Group Ranks": "[0, 1, 2]", "Seq": 41}"#,
        );
        assert_eq!(
            (args.device, args.stream, args.correlation, args.blocks, args.bytes),
            (Some(2), Some(7), 3, 256, Some(2560))
        );
        let collective = args.collective;
        assert_eq!(
            (collective.in_elements, collective.out_elements, collective.group_size),
            (Some(10), Some(20), Some(8))
        );
        assert_eq!((collective.kind, collective.seq), (Some(b"allreduce".as_slice()), Some(41)));
        assert_eq!(element_bytes(b"BFloat16"), Some(2));
        assert_eq!(element_bytes(b"Float8_e4m3fn"), Some(1));
        assert_eq!(element_bytes(b"what"), None);
        assert_eq!(device(b"{\"stream\": [1], \"grid\": [a], \"bytes\": -1}"), DeviceArgs::default());
    }

    #[test]
    fn matrix_products_count_their_operations() {
        let args = br#"{"Input Dims": [[8], [16, 32], [32, 4], [], []]}"#;
        assert_eq!(matmul_flops(b"aten::addmm", args), Some((2.0 * 16.0 * 32.0 * 4.0, Precision::Unknown)));
        for (types, expected) in [
            (r#"["c10::BFloat16", "c10::BFloat16"]"#, Precision::Half),
            (r#"["float", "float"]"#, Precision::Single),
            (r#"["c10::Float8_e4m3fn", "c10::Float8_e4m3fn"]"#, Precision::Fp8),
            (r#"["double", "double"]"#, Precision::Unknown),
            (r#"["signed char"]"#, Precision::Unknown),
            ("[]", Precision::Unknown),
            ("", Precision::Unknown),
        ] {
            assert_eq!(precision(types.as_bytes(), 0), expected, "{types}");
        }
        assert_eq!(matmul_flops(b"aten::mm", args), None);
        let args = br#"{"Input Dims": [[2, 3, 4], [2, 4, 5]], "Input type": ["c10::Half", "c10::Half"]}"#;
        assert_eq!(matmul_flops(b"aten::bmm", args), Some((240.0, Precision::Half)));
        assert_eq!(matmul_flops(b"aten::add", args), None);
    }
}
