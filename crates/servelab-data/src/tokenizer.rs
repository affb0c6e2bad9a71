//! Counting tokens: a model's own `tokenizer.json`, or the small builtin tokenizer that needs no file. Counts never
//! include special tokens or a chat template; how many the server adds is asked for separately.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::DataError;

mod builtin;
#[cfg(test)]
pub(crate) mod tests;

use builtin::Builtin;
#[cfg(test)]
pub(crate) use tests::byte_level_json;

/// Where a tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// The one shipped with servelab: English words, bytes for everything else.
    Builtin,
    /// A `tokenizer.json`, or a folder that holds one.
    Path(PathBuf),
}

impl FromStr for TokenizerSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "builtin" { Self::Builtin } else { Self::Path(PathBuf::from(text)) })
    }
}

impl fmt::Display for TokenizerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("builtin"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// A loaded tokenizer. Cheap to share between threads by reference.
pub struct Tokenizer {
    kind: Kind,
    fingerprint: String,
}

enum Kind {
    Builtin(&'static Builtin),
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl AsRef<Self> for Tokenizer {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Tokenizer {
    /// Loads a tokenizer. A missing file is an error that names the command which helps.
    pub fn load(source: &TokenizerSource) -> Result<Self, DataError> {
        match source {
            TokenizerSource::Builtin => Ok(Self::builtin()),
            TokenizerSource::Path(path) => Self::from_path(path),
        }
    }

    /// The tokenizer that needs no file.
    pub fn builtin() -> Self {
        let builtin = Builtin::shared();
        Self { kind: Kind::Builtin(builtin), fingerprint: builtin.fingerprint() }
    }

    fn from_path(given: &Path) -> Result<Self, DataError> {
        let path = if given.is_dir() { given.join("tokenizer.json") } else { given.to_path_buf() };
        let bytes = std::fs::read(&path).map_err(|error| {
            let reason =
                if given.is_dir() { "the folder holds no tokenizer.json".to_owned() } else { error.to_string() };
            missing(given, reason)
        })?;
        let broken =
            |error: &dyn fmt::Display| DataError::TokenizerBroken { path: path.clone(), reason: error.to_string() };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| broken(&error))?;
        // Files often carry settings for training; with them every long prompt would count as the same few hundred tokens.
        tokenizer.with_truncation(None).map_err(|error| broken(&error))?;
        tokenizer.with_padding(None);
        Ok(Self { kind: Kind::HuggingFace(Box::new(tokenizer)), fingerprint: hex_sha256(&bytes) })
    }

    /// Number of tokens, special tokens not included.
    pub fn count(&self, text: &str) -> Result<u32, DataError> {
        match &self.kind {
            Kind::Builtin(builtin) => Ok(builtin.count(text)),
            Kind::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| refused(text, &error))?;
                Ok(u32::try_from(encoding.get_ids().len()).unwrap_or(u32::MAX))
            }
        }
    }

    /// Token ids, special tokens not included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.kind {
            Kind::Builtin(builtin) => Ok(builtin.encode(text)),
            Kind::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| refused(text, &error))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// The text of token ids. The builtin tokenizer gives back exactly what was encoded.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        match &self.kind {
            Kind::Builtin(builtin) => Ok(builtin.decode(ids)),
            Kind::HuggingFace(tokenizer) => tokenizer
                .decode(ids, false)
                .map_err(|error| DataError::Tokenize { bytes: ids.len(), reason: error.to_string() }),
        }
    }

    /// Special tokens (such as a begin-of-text mark) that the tokenizer puts around one plain prompt, and that a
    /// server therefore counts on top for completions.
    pub fn special_tokens_per_prompt(&self) -> Result<u32, DataError> {
        match &self.kind {
            Kind::Builtin(_) => Ok(0),
            Kind::HuggingFace(tokenizer) => {
                let encoding = tokenizer.encode_fast("", true).map_err(|error| refused("", &error))?;
                Ok(u32::try_from(encoding.get_ids().len()).unwrap_or(u32::MAX))
            }
        }
    }

    /// SHA-256 (hex) of what determines the counts: the file's bytes, or the builtin vocabulary and its version.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Number of token ids.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Builtin(builtin) => builtin.vocab_size(),
            Kind::HuggingFace(tokenizer) => tokenizer.get_vocab_size(true),
        }
    }
}

fn refused(text: &str, error: &dyn fmt::Display) -> DataError {
    DataError::Tokenize { bytes: text.len(), reason: error.to_string() }
}

fn missing(given: &Path, reason: String) -> DataError {
    let is_file_name = given.extension().is_some_and(|extension| extension == "json");
    let directory = if is_file_name { given.parent().unwrap_or(given) } else { given };
    // `ORG/MODEL` is how models are named, so a relative path of two parts is most likely one.
    let parts: Vec<_> = directory.components().collect();
    let model =
        if directory.is_relative() && parts.len() == 2 && !directory.starts_with("..") && !directory.starts_with(".") {
            directory.display().to_string()
        } else {
            "ORG/MODEL".to_owned()
        };
    DataError::TokenizerMissing {
        path: given.to_path_buf(),
        reason,
        model,
        directory: if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_path_buf() },
    }
}

/// SHA-256 in lower-case hex.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
