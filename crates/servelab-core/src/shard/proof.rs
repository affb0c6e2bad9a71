//! Showing that one knows the shared token without sending it: a hash over the other side's nonce. And a short name for
//! what a shard was started for.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// H(token, H(token, nonce, shard)) in hex; nested so that nothing can be appended to the message.
pub fn proof(token: &str, nonce: &str, shard: super::Shard) -> String {
    let inner = Sha256::new().chain_update(token).chain_update([0]).chain_update(nonce).chain_update(shard.to_string());
    hex(&Sha256::new().chain_update(token).chain_update([1]).chain_update(inner.finalize()).finalize())
}

/// Equal for equal texts, and for no others.
pub fn fingerprint(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Compares without telling by its duration where the difference is.
pub fn same_proof(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}
