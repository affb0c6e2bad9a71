//! Gives a prompt exactly the tokens it was asked for. Text is assembled by adding up known costs of words, which is
//! right for most tokenizers, then counted once; what is off is corrected by dropping words and adding small pieces.

use std::collections::HashMap;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::grammar::{Sentence, sentence, topic};
use super::lexicon::{CLOSINGS, FILLERS};
use super::topics::Topic;
use crate::error::DataError;
use crate::tokenizer::Tokenizer;

/// Prompts from this length on carry a document; shorter ones are requests.
const DOCUMENT_TOKENS: u32 = 256;

/// Room that a full opener needs.
const OPENER_TOKENS: u32 = 40;

/// Sentences that may be too long in a row before the rest is left to closings.
const MAX_MISSES: u32 = 6;

/// End of a text, in bytes, that is counted again while it is repaired.
const ANCHOR_BYTES: usize = 600;

/// Corrections after which a length counts as out of reach.
const MAX_CORRECTIONS: usize = 200;

/// Text that several prompts start with.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    pub(super) text: String,
    pub(super) tokens: u32,
}

/// Writes prompts for one tokenizer, borrowed or shared, and remembers what words cost.
pub(crate) struct Composer<T> {
    tokenizer: T,
    costs: HashMap<String, u32>,
    /// What words cost at the start of a paragraph, the break included.
    break_costs: HashMap<String, u32>,
    /// Costs of the closing phrases, largest first.
    closings: Vec<(u32, &'static str)>,
}

impl<T: AsRef<Tokenizer>> Composer<T> {
    pub(crate) fn new(tokenizer: T) -> Result<Self, DataError> {
        let mut composer = Self { tokenizer, costs: HashMap::new(), break_costs: HashMap::new(), closings: Vec::new() };
        for closing in CLOSINGS {
            let cost = composer.cost(closing)?;
            composer.closings.push((cost, closing));
        }
        composer.closings.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        Ok(composer)
    }

    /// A text of exactly `wanted` tokens that begins with the prefix.
    pub(crate) fn compose(&mut self, rng: &mut ChaCha8Rng, wanted: u32, prefix: &Prefix) -> Result<String, DataError> {
        let topic = topic(rng);
        let mut draft = Draft { text: prefix.text.clone(), left: wanted.saturating_sub(prefix.tokens) };
        let opener = if draft.left < OPENER_TOKENS { Sentence::ShortOpener } else { Sentence::Opener };
        let mut first = String::new();
        sentence(rng, topic, opener, &mut first);
        let cost = if draft.text.is_empty() { self.tokenizer.as_ref().count(&first)? } else { self.cost(&first)? };
        draft.push(" ", &first, cost);
        if wanted < DOCUMENT_TOKENS {
            self.add(rng, topic, Sentence::Request, &mut draft)?;
            while self.add(rng, topic, Sentence::Statement, &mut draft)? {}
        } else {
            self.add(rng, topic, Sentence::DocumentRequest, &mut draft)?;
            self.document(rng, topic, &mut draft)?;
        }
        self.close(rng, &mut draft)?;
        self.fit(draft.text, wanted, prefix.text.len())
    }

    /// A piece of exactly `wanted` tokens that stands behind other text: it begins with a space, and neither greets nor
    /// asks, since it may be any part of a prompt.
    pub(crate) fn block(&mut self, rng: &mut ChaCha8Rng, wanted: u32) -> Result<String, DataError> {
        let topic = topic(rng);
        let mut draft = Draft { text: String::new(), left: wanted };
        let mut first = String::from(" ");
        sentence(rng, topic, Sentence::Statement, &mut first);
        let cost = self.tokenizer.as_ref().count(&first)?;
        if cost <= wanted {
            draft.push("", &first, cost);
            self.document(rng, topic, &mut draft)?;
        }
        self.close(rng, &mut draft)?;
        self.fit(draft.text, wanted, 0)
    }

    /// Paragraphs until nothing fits any more. Long documents wander between topics, as real ones do.
    fn document(&mut self, rng: &mut ChaCha8Rng, first: &'static Topic, draft: &mut Draft) -> Result<(), DataError> {
        let mut subject = first;
        loop {
            if rng.random_range(0..3) == 0 {
                subject = topic(rng);
            }
            if draft.left <= OPENER_TOKENS {
                break;
            }
            let mut separator = "\n\n";
            if rng.random_range(0..3) == 0 && self.add_after(rng, subject, Sentence::Heading, separator, draft)? {
                separator = " ";
            }
            for _ in 0..rng.random_range(3..8) {
                if !self.add_after(rng, subject, Sentence::Statement, separator, draft)? {
                    return Ok(());
                }
                separator = " ";
            }
        }
        while self.add(rng, subject, Sentence::Statement, draft)? {}
        Ok(())
    }

    fn add(
        &mut self,
        rng: &mut ChaCha8Rng,
        topic: &Topic,
        kind: Sentence,
        draft: &mut Draft,
    ) -> Result<bool, DataError> {
        self.add_after(rng, topic, kind, " ", draft)
    }

    /// Adds one sentence; false if several in a row were too long.
    fn add_after(
        &mut self,
        rng: &mut ChaCha8Rng,
        topic: &Topic,
        kind: Sentence,
        separator: &str,
        draft: &mut Draft,
    ) -> Result<bool, DataError> {
        let mut text = String::new();
        for attempt in 0..MAX_MISSES {
            text.clear();
            // Questions are the shortest requests: the last resort when there is little room.
            let kind = if kind == Sentence::Request && attempt > 1 { Sentence::Question } else { kind };
            sentence(rng, topic, kind, &mut text);
            let cost = self.cost_behind(separator, &text)?;
            if cost <= draft.left {
                draft.push(separator, &text, cost);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn close(&mut self, rng: &mut ChaCha8Rng, draft: &mut Draft) -> Result<(), DataError> {
        while draft.left > 0 {
            let Some((best, _)) = self.closings.iter().copied().find(|(cost, _)| *cost <= draft.left && *cost > 0)
            else {
                break;
            };
            let equal: Vec<&'static str> =
                self.closings.iter().filter(|(cost, _)| *cost == best).map(|(_, text)| *text).collect();
            let Some(text) = equal.get(rng.random_range(0..equal.len().max(1))) else { break };
            draft.push(" ", text, best);
        }
        Ok(())
    }

    /// Estimated cost of a sentence behind a space.
    fn cost(&mut self, text: &str) -> Result<u32, DataError> {
        self.cost_behind(" ", text)
    }

    /// Estimated cost of a sentence behind a separator, which is part of the cost.
    fn cost_behind(&mut self, separator: &str, text: &str) -> Result<u32, DataError> {
        let mut sum = 0;
        for (idx, word) in text.split(' ').enumerate() {
            // Words rarely cost the same behind a line feed as behind a space.
            let breaks = idx == 0 && separator != " ";
            let known = if breaks { &self.break_costs } else { &self.costs };
            if let Some(cost) = known.get(word) {
                sum += cost;
                continue;
            }
            let before = if breaks { separator } else { " " };
            let joined = self.tokenizer.as_ref().count(&format!("a.{before}{word}"))?;
            let cost = joined.saturating_sub(self.tokenizer.as_ref().count("a.")?);
            let known = if breaks { &mut self.break_costs } else { &mut self.costs };
            known.insert(word.to_owned(), cost);
            sum += cost;
        }
        Ok(sum)
    }

    /// Counts the whole text and repairs it until the count is right. The first `keep` bytes are never touched.
    pub(crate) fn fit(&mut self, mut text: String, wanted: u32, keep: usize) -> Result<String, DataError> {
        let mut anchor = Anchor::new(self.tokenizer.as_ref(), &text)?;
        let mut reached = anchor.whole;
        let mut counted_whole = true;
        for attempt in 0..MAX_CORRECTIONS {
            if reached == wanted && !counted_whole {
                // What was added up from a part may be off; only the whole text's count is the truth.
                anchor = Anchor::new(self.tokenizer.as_ref(), &text)?;
                reached = anchor.whole;
            }
            if reached == wanted {
                return Ok(text);
            }
            counted_whole = false;
            let surplus = if reached > wanted { reached - wanted } else { 1 };
            if reached > wanted || !self.extend(&mut text, &anchor, reached, wanted, attempt)? {
                if text.len() <= keep {
                    break;
                }
                self.drop_words(&mut text, surplus, keep)?;
                if text.len() <= anchor.at {
                    anchor = Anchor::new(self.tokenizer.as_ref(), &text)?;
                }
            }
            reached = anchor.count(self.tokenizer.as_ref(), &text)?;
        }
        Err(DataError::Length { wanted, reached })
    }

    fn drop_words(&mut self, text: &mut String, surplus: u32, keep: usize) -> Result<(), DataError> {
        let mut dropped = 0;
        while dropped < surplus && text.len() > keep {
            let tail = text.get(keep..).unwrap_or("");
            // Behind the last word boundary; a single word is cut letter by letter.
            let cut = match tail.rfind([' ', '\n']) {
                Some(at) if at > 0 || keep > 0 => keep + at,
                _ => text.char_indices().next_back().map_or(keep, |(at, _)| at.max(keep)),
            };
            let word = text.get(cut..).unwrap_or("").trim_start().to_owned();
            dropped += self.cost(&word)?.max(1);
            text.truncate(cut);
        }
        Ok(())
    }

    /// Adds one small piece that brings the count closer without passing it.
    fn extend(
        &self,
        text: &mut String,
        anchor: &Anchor,
        reached: u32,
        wanted: u32,
        attempt: usize,
    ) -> Result<bool, DataError> {
        let missing = wanted - reached;
        let len = text.len();
        let closings = self.closings.iter().filter(|(cost, _)| (1..=missing).contains(cost)).map(|(_, text)| *text);
        // Rotating the small pieces keeps a tokenizer that merges them from being offered the same one for ever.
        let fillers = FILLERS.iter().cycle().skip(attempt % FILLERS.len()).take(FILLERS.len()).copied();
        let pieces = closings.take(3).map(|text| (" ", text)).chain(fillers.map(|text| ("", text)));
        for (separator, piece) in pieces {
            text.push_str(separator);
            text.push_str(piece);
            let n = anchor.count(self.tokenizer.as_ref(), text)?;
            if n > reached && n <= wanted {
                return Ok(true);
            }
            text.truncate(len);
        }
        Ok(false)
    }
}

/// A place near the end of a text from which on it is counted again, so that repairing a long prompt does not count all
/// of it each time.
struct Anchor {
    at: usize,
    /// Tokens before `at`.
    head: u32,
    /// Tokens of the whole text when the anchor was dropped.
    whole: u32,
}

impl Anchor {
    fn new(tokenizer: &Tokenizer, text: &str) -> Result<Self, DataError> {
        let whole = tokenizer.count(text)?;
        let from = text.len().saturating_sub(ANCHOR_BYTES);
        let at =
            (from..text.len()).find(|at| text.as_bytes().get(*at) == Some(&b' ')).filter(|_| from > 0).unwrap_or(0);
        let tail = if at == 0 { whole } else { tokenizer.count(text.get(at..).unwrap_or(""))? };
        Ok(Self { at, head: whole.saturating_sub(tail), whole })
    }

    fn count(&self, tokenizer: &Tokenizer, text: &str) -> Result<u32, DataError> {
        Ok(self.head + tokenizer.count(text.get(self.at..).unwrap_or(""))?)
    }
}

/// A text in the making and the tokens it may still get.
struct Draft {
    text: String,
    left: u32,
}

impl Draft {
    fn push(&mut self, separator: &str, text: &str, cost: u32) {
        if !self.text.is_empty() {
            self.text.push_str(separator);
        }
        self.text.push_str(text);
        self.left = self.left.saturating_sub(cost);
    }
}
