//! What the tokens of a request are, as far as the prefix cache can tell: which of its blocks hold the same tokens as
//! blocks of other requests. Hashes are chained, so that equal hashes mean equal tokens from the start.

use std::sync::Arc;

use crate::random::mix;
use crate::text::OutputText;

/// The tokens of one request. Only what may be shared with another request needs to be said; the rest is its own.
#[derive(Debug, Clone, Default)]
pub enum Content {
    /// No token run in common with any other request.
    #[default]
    Unique,
    /// The first tokens of the prompt are those of every other request of the family; the rest is its own.
    SharedPrefix {
        /// Which prefix.
        family: u64,
        /// Its length, tokens.
        tokens: u32,
    },
    /// One turn of a conversation: prompt and output are the next tokens of one endless stream, after a shared prefix.
    Turn {
        /// Which conversation.
        conversation: u64,
        /// Prefix shared with other conversations (a system prompt).
        family: u64,
        /// Its length, tokens.
        family_tokens: u32,
    },
    /// Ids of equally long prompt parts, as public traces give them (each id stands for its part *and* everything
    /// before it, or only for the part: both work, since hashes are chained).
    Parts {
        /// One id for each started `tokens_per_part` of the prompt.
        ids: Arc<[u64]>,
        /// Tokens of a part.
        tokens_per_part: u32,
    },
    /// Real token ids, and the text that will be written.
    Tokens {
        /// The prompt.
        prompt: Arc<[u32]>,
        /// What is generated.
        output: OutputText,
    },
}

const SEED: u64 = 0x5EED;

impl Content {
    /// True when generated tokens can be reused by a later request.
    pub fn output_is_shared(&self) -> bool {
        matches!(self, Self::Turn { .. } | Self::Tokens { .. })
    }

    /// Extends the chained hashes of full blocks as far as the first `n_tokens` tokens (of which `n_prompt` are prompt)
    /// can be shared with another request.
    pub fn extend_hashes(&self, hashes: &mut Vec<u64>, n_prompt: u32, n_tokens: u32, block_size: u32) {
        let known = match self {
            Self::Unique => return,
            Self::SharedPrefix { tokens, .. } => (*tokens).min(n_prompt),
            Self::Parts { .. } => n_prompt,
            Self::Turn { .. } | Self::Tokens { .. } => n_tokens,
        };
        let full = (known / block_size) as usize;
        while hashes.len() < full {
            let previous = hashes.last().copied().unwrap_or(SEED);
            let from = hashes.len() as u32 * block_size;
            hashes.push(self.block_hash(previous, from, from + block_size, n_prompt));
        }
    }

    fn block_hash(&self, previous: u64, from: u32, to: u32, n_prompt: u32) -> u64 {
        match self {
            Self::Unique => previous,
            Self::SharedPrefix { family, .. } => mix(previous, *family),
            Self::Turn { conversation, family, family_tokens } => {
                mix(previous, if to <= *family_tokens { *family } else { mix(*conversation, 1) })
            }
            Self::Parts { ids, tokens_per_part } => {
                let width = (*tokens_per_part).max(1);
                (from / width..to.div_ceil(width))
                    .fold(previous, |hash, part| mix(hash, ids.get(part as usize).copied().unwrap_or(u64::MAX)))
            }
            Self::Tokens { prompt, output } => (from..to).fold(previous, |hash, at| {
                let id = match prompt.get(at as usize) {
                    Some(id) => *id,
                    None => output.token_id(at - n_prompt),
                };
                mix(hash, u64::from(id))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(content: &Content, n_prompt: u32, n_tokens: u32) -> Vec<u64> {
        let mut hashes = Vec::new();
        content.extend_hashes(&mut hashes, n_prompt, n_tokens, 4);
        hashes
    }

    #[test]
    fn only_what_is_shared_has_hashes() {
        assert!(hashes(&Content::Unique, 40, 60).is_empty());
        let prefix = |tokens| Content::SharedPrefix { family: 3, tokens };
        assert_eq!(hashes(&prefix(11), 40, 60).len(), 2);
        assert_eq!(hashes(&prefix(100), 40, 60).len(), 10);
        assert_eq!(hashes(&prefix(11), 40, 60), hashes(&prefix(20), 40, 60)[..2]);
        let turn = Content::Turn { conversation: 1, family: 3, family_tokens: 11 };
        assert_eq!(hashes(&turn, 40, 60).len(), 15);
        assert_eq!(hashes(&turn, 40, 60)[..2], hashes(&prefix(20), 40, 60)[..2]);
        assert_ne!(hashes(&turn, 40, 60)[2], hashes(&prefix(20), 40, 60)[2]);
    }

    #[test]
    fn a_later_turn_starts_with_the_earlier_one() {
        let turn = Content::Turn { conversation: 1, family: 0, family_tokens: 0 };
        assert_eq!(hashes(&turn, 40, 60), hashes(&turn, 80, 90)[..15]);
    }

    #[test]
    fn parts_are_shared_up_to_the_first_difference() {
        let parts = |ids: &[u64]| Content::Parts { ids: ids.into(), tokens_per_part: 8 };
        let (a, b) = (hashes(&parts(&[1, 2, 3]), 20, 30), hashes(&parts(&[1, 9, 3]), 20, 30));
        assert_eq!(a.len(), 5);
        assert_eq!(a[..2], b[..2]);
        assert!(a[2..].iter().zip(&b[2..]).all(|(a, b)| a != b));
    }

    #[test]
    fn extending_in_steps_changes_nothing() {
        let prompt: Arc<[u32]> = (0..23).collect();
        let content = Content::Tokens { output: OutputText::new(1, &prompt), prompt };
        let mut steps = Vec::new();
        for n_tokens in 23..60 {
            content.extend_hashes(&mut steps, 23, n_tokens, 4);
        }
        assert_eq!(steps, hashes(&content, 23, 59));
    }
}
