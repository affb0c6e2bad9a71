//! Puts sentences together from the lexicon: openers, requests, statements, headings. Knows nothing of tokens; `fit`
//! decides how much text a prompt gets.

use rand::{Rng, RngExt};

use super::lexicon::{
    ADJECTIVES, CODE_REQUESTS, COMPARISONS, DOCUMENT_REQUESTS, FIRST_NAMES, HEADINGS, LANGUAGES, LAST_NAMES, MONTHS,
    OPENERS, QUESTIONS, ROLES, SHORT_OPENERS, STATEMENTS,
};
use super::topics::{TOPICS, Topic};

/// A kind of sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sentence {
    Opener,
    ShortOpener,
    Question,
    /// A question, a code request or a comparison.
    Request,
    /// A request that refers to the text after it.
    DocumentRequest,
    Statement,
    Heading,
}

/// One of the lexicon's topics, at random.
pub(super) fn topic(rng: &mut impl Rng) -> &'static Topic {
    pick(rng, TOPICS).unwrap_or(&TOPICS[0])
}

/// Writes one sentence at the end of `out`, without a space before it.
pub(super) fn sentence(rng: &mut impl Rng, topic: &Topic, kind: Sentence, out: &mut String) {
    let templates = match kind {
        Sentence::Opener => OPENERS,
        Sentence::ShortOpener => SHORT_OPENERS,
        Sentence::Question => QUESTIONS,
        Sentence::Request => match rng.random_range(0..3) {
            0 => QUESTIONS,
            1 => CODE_REQUESTS,
            _ => COMPARISONS,
        },
        Sentence::DocumentRequest => DOCUMENT_REQUESTS,
        Sentence::Statement => STATEMENTS,
        Sentence::Heading => HEADINGS,
    };
    let template = word(rng, templates);
    expand(rng, topic, template, out);
}

fn expand(rng: &mut impl Rng, topic: &Topic, template: &str, out: &mut String) {
    // The second of a pair must differ from the first, so both are drawn together.
    let (thing, thing2) = two(rng, topic.things);
    let (last, last2) = two(rng, LAST_NAMES);
    let (first, first2) = two(rng, FIRST_NAMES);
    let (month, month2) = two(rng, MONTHS);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        rest = after;
        match slot {
            "thing" => out.push_str(thing),
            "thing2" => out.push_str(thing2),
            "last" => out.push_str(last),
            "last2" => out.push_str(last2),
            "first" => out.push_str(first),
            "first2" => out.push_str(first2),
            "month" => out.push_str(month),
            "month2" => out.push_str(month2),
            "topic" => out.push_str(topic.name),
            "people" => out.push_str(word(rng, topic.people)),
            "people_cap" => {
                let people = word(rng, topic.people);
                let mut letters = people.chars();
                out.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
                out.push_str(letters.as_str());
            }
            "action" => out.push_str(word(rng, topic.actions)),
            "measure" => out.push_str(word(rng, topic.measures)),
            "problem" => out.push_str(word(rng, topic.problems)),
            "adjective" => out.push_str(word(rng, ADJECTIVES)),
            // Follows the article "a", so it must not begin with a vowel.
            "adjective2" => out.push_str(consonant_adjective(rng)),
            "role" => out.push_str(word(rng, ROLES)),
            "language" => out.push_str(word(rng, LANGUAGES)),
            "n" => out.push_str(&rng.random_range(3..60u32).to_string()),
            "day" => out.push_str(&rng.random_range(1..29u32).to_string()),
            other => out.push_str(other),
        }
    }
    out.push_str(rest);
}

fn consonant_adjective(rng: &mut impl Rng) -> &'static str {
    loop {
        let adjective = word(rng, ADJECTIVES);
        if !adjective.starts_with(['a', 'e', 'i', 'o', 'u', 'h']) {
            return adjective;
        }
    }
}

fn pick<'a, T>(rng: &mut impl Rng, items: &'a [T]) -> Option<&'a T> {
    items.get(rng.random_range(0..items.len().max(1)))
}

fn word(rng: &mut impl Rng, words: &[&'static str]) -> &'static str {
    pick(rng, words).copied().unwrap_or("")
}

fn two(rng: &mut impl Rng, words: &[&'static str]) -> (&'static str, &'static str) {
    let n = words.len().max(2);
    let first = rng.random_range(0..n);
    let second = (first + rng.random_range(1..n)) % n;
    (words.get(first).copied().unwrap_or(""), words.get(second).copied().unwrap_or(""))
}
