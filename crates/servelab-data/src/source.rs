//! Prompts for load: opens what a study names and hands out disjoint streams (warm-up, each load level, each repeat).
//! Which streams there are and how many prompts each needs is the caller's business.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use servelab_core::workload::{DatasetSpec, FileSpec, SynthSpec};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::formats::read_dataset;
use crate::prompt::Prompt;
use crate::synth::{shuffle, synthesize};
use crate::tokenizer::{Tokenizer, hex_sha256};

#[cfg(test)]
mod tests;

/// One stream of prompts to draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// Name, such as `warmup` or `level-3/repeat-0`. Of a synthetic set the same name always gives the same prompts.
    pub name: String,
    /// Number of prompts.
    pub n: usize,
}

/// An opened dataset.
#[derive(Debug)]
pub struct PromptSource<'t> {
    tokenizer: &'t Tokenizer,
    seed: u64,
    reuse: bool,
    max_output: Option<u32>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Synth(SynthSpec),
    File { path: PathBuf, prompts: Vec<Prompt>, drawn: usize },
}

impl<'t> PromptSource<'t> {
    /// Opens a dataset; a file is read, counted and put into its seeded order here. Relative paths start at `base_dir`.
    pub fn open(spec: &DatasetSpec, base_dir: &Path, tokenizer: &'t Tokenizer, seed: u64) -> Result<Self, DataError> {
        spec.validate()?;
        let kind = match spec {
            DatasetSpec::Synth(synth) => Kind::Synth(synth.clone()),
            DatasetSpec::Suite(suite) => Kind::Synth(suite.spec()),
            DatasetSpec::File(file) => open_file(file, base_dir, tokenizer, seed)?,
        };
        Ok(Self { tokenizer, seed, reuse: false, max_output: None, kind })
    }

    /// Whether a file's prompts may be handed out again when all were drawn. Synthetic sets grow and never need it.
    #[must_use]
    pub fn with_reuse(mut self, reuse: bool) -> Self {
        self.reuse = reuse;
        self
    }

    /// Cuts every target output length to at most this many tokens.
    #[must_use]
    pub fn with_max_output(mut self, max_output: Option<u32>) -> Self {
        self.max_output = max_output;
        self
    }

    /// Prompts left, or `None` where there is no end.
    pub fn remaining(&self) -> Option<usize> {
        match &self.kind {
            Kind::File { prompts, drawn, .. } if !self.reuse => Some(prompts.len().saturating_sub(*drawn)),
            _ => None,
        }
    }

    /// Draws one list of prompts per stream, all disjoint. A synthetic stream depends only on spec, seed and its name;
    /// a file is cut into slices in the order of the requests, this call's behind those of earlier calls.
    pub fn draw(&mut self, streams: &[StreamRequest]) -> Result<Vec<Vec<Prompt>>, DataError> {
        let mut names = HashSet::new();
        if let Some(twice) = streams.iter().find(|stream| !names.insert(stream.name.as_str())) {
            return Err(DataError::StreamTwice { stream: twice.name.clone() });
        }
        let mut drawn: Vec<Vec<Prompt>> = match &mut self.kind {
            Kind::Synth(spec) => streams
                .iter()
                .map(|stream| synthesize(spec, self.seed, &stream.name, stream.n, self.tokenizer))
                .collect::<Result<_, _>>()?,
            Kind::File { path, prompts, drawn } => {
                // All or nothing: a refused draw must not use up prompts.
                let mut cursor = *drawn;
                let mut slices = Vec::with_capacity(streams.len());
                for stream in streams {
                    slices.push(slice(path, prompts, cursor, stream, self.reuse)?);
                    cursor += stream.n;
                }
                *drawn = cursor;
                slices
            }
        };
        if let Some(cap) = self.max_output {
            for prompt in drawn.iter_mut().flatten() {
                prompt.output_tokens = prompt.output_tokens.min(cap);
            }
        }
        Ok(drawn)
    }
}

fn open_file(file: &FileSpec, base_dir: &Path, tokenizer: &Tokenizer, seed: u64) -> Result<Kind, DataError> {
    let path = base_dir.join(&file.path);
    let mut prompts = read_dataset(file, base_dir, tokenizer)?.prompts;
    if let Some(empty) = prompts.iter().find(|prompt| prompt.input_tokens == 0) {
        let reason = format!("prompt `{}` is empty and no server takes it; remove it", empty.id);
        return Err(DataError::NoPrompts { path, reason });
    }
    let mut hash = Sha256::new();
    hash.update(b"file order");
    hash.update(seed.to_le_bytes());
    shuffle(&mut ChaCha8Rng::from_seed(hash.finalize().into()), &mut prompts);
    Ok(Kind::File { path, prompts, drawn: 0 })
}

fn slice(
    path: &Path,
    prompts: &[Prompt],
    cursor: usize,
    stream: &StreamRequest,
    reuse: bool,
) -> Result<Vec<Prompt>, DataError> {
    if !reuse {
        let taken = prompts.get(cursor..cursor.saturating_add(stream.n));
        return taken.map(<[Prompt]>::to_vec).ok_or_else(|| DataError::TooFewPrompts {
            path: path.to_path_buf(),
            stream: stream.name.clone(),
            wanted: stream.n,
            drawn: cursor,
            available: prompts.len(),
        });
    }
    let again = (cursor..cursor + stream.n).filter_map(|at| {
        let mut prompt = prompts.get(at % prompts.len().max(1))?.clone();
        let round = at / prompts.len().max(1);
        if round > 0 {
            prompt.id = format!("{}#{}", prompt.id, round + 1);
        }
        Some(prompt)
    });
    Ok(again.collect())
}

/// SHA-256 (hex) of a dataset file's bytes: what cell ids hash of a file.
pub fn file_sha256(file: &FileSpec, base_dir: &Path) -> Result<String, DataError> {
    let path = base_dir.join(&file.path);
    let bytes = std::fs::read(&path).map_err(|source| DataError::Read { path, source })?;
    Ok(hex_sha256(&bytes))
}
