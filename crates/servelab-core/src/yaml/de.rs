//! Tree → typed values. A serde deserializer over [`Node`] that pins every error to the key or value that caused it and
//! turns serde's wording into ours, with a suggestion for mistyped words.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::{Entry, Node, NodeValue};
use crate::source::{Diagnostic, Span, did_you_mean};

/// Reads a typed value out of a tree.
///
/// # Errors
/// A [`Diagnostic`] at the key or value that does not fit.
pub fn from_node<T: DeserializeOwned>(node: &Node) -> Result<T, Diagnostic> {
    T::deserialize(NodeDeserializer { node }).map_err(|error| error.into_diagnostic(node.span))
}

/// An error on its way up to where its place is known.
#[derive(Debug, Clone)]
pub struct DeError {
    message: String,
    hint: Option<String>,
    span: Option<Span>,
    blames_key: bool,
}

impl DeError {
    fn plain(message: String) -> Self {
        Self { message, hint: None, span: None, blames_key: false }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn or_at(mut self, span: Span) -> Self {
        self.span.get_or_insert(span);
        self
    }

    /// Like [`Self::or_at`] for a whole value, unless the key above it is to blame.
    fn or_inside(self, span: Span) -> Self {
        if self.blames_key { self } else { self.or_at(span) }
    }

    fn into_diagnostic(self, fallback: Span) -> Diagnostic {
        Diagnostic { message: self.message, span: Some(self.span.unwrap_or(fallback)), hint: self.hint }
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::plain(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = people_words(&expected.to_string());
        let mut error = Self::plain(format!("expected {wanted}, found {}", found(&unexpected)));
        match unexpected {
            Unexpected::Str(text)
                if wanted == "true or false" && ["yes", "no", "on", "off"].contains(&text.to_lowercase().as_str()) =>
            {
                error = error.hint("write `true` or `false`");
            }
            Unexpected::Float(_) | Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Bool(_)
                if wanted == "text" =>
            {
                error = error.hint("put it in quotes");
            }
            _ => {}
        }
        error
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::plain(format!("expected {}, found {}", people_words(&expected.to_string()), found(&unexpected)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::plain(format!("unknown value `{variant}`"));
        error.hint = Some(suggestion(variant, expected));
        error
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut error = Self::plain(format!("unknown key `{field}`"));
        error.hint = Some(suggestion(field, expected));
        error.blames_key = true;
        error
    }

    fn missing_field(field: &'static str) -> Self {
        let mut error = Self::plain(format!("missing key `{field}`"));
        error.blames_key = true;
        error
    }
}

fn suggestion(word: &str, expected: &[&str]) -> String {
    match did_you_mean(word, expected.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if expected.is_empty() => "nothing is allowed here".to_owned(),
        None => format!("known here: {}", expected.join(", ")),
    }
}

fn people_words(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number ≥ 0 that fits".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string" | "a borrowed string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other if other.starts_with("enum ") => "a name or a mapping with one key".to_owned(),
        other => other.to_owned(),
    }
}

fn found(unexpected: &Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(b) => format!("`{b}`"),
        Unexpected::Unsigned(n) => format!("`{n}`"),
        Unexpected::Signed(n) => format!("`{n}`"),
        Unexpected::Float(n) => format!("`{n}`"),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

#[derive(Clone, Copy)]
struct NodeDeserializer<'a> {
    node: &'a Node,
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let result = match &self.node.value {
            NodeValue::Null => visitor.visit_unit(),
            NodeValue::Bool(b) => visitor.visit_bool(*b),
            NodeValue::Int(i) => match u64::try_from(*i) {
                Ok(unsigned) => visitor.visit_u64(unsigned),
                Err(_) => visitor.visit_i64(*i),
            },
            NodeValue::Float(f) => match super::normal_number(*f).as_i64() {
                Some(whole) => visitor.visit_i64(whole),
                None => visitor.visit_f64(*f),
            },
            NodeValue::Text(text) => visitor.visit_str(text),
            NodeValue::Seq(items) => visitor.visit_seq(Items { items: items.iter() }),
            NodeValue::Map(entries) => visitor.visit_map(Entries { entries: entries.iter(), current: None }),
        };
        result.map_err(|error| error.or_inside(self.node.span))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.value {
            NodeValue::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_newtype_struct(self)
    }

    /// Derived code would also read a struct from a list of its fields, which nobody means in a file.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match self.node.value {
            NodeValue::Seq(_) => {
                Err(DeError::plain("expected a mapping of keys, found a list".to_owned()).or_at(self.node.span))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let result = match &self.node.value {
            NodeValue::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            NodeValue::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(OneEntry { entry }),
                _ => Err(DeError::plain(format!("expected a mapping with exactly one key, found {}", entries.len()))),
            },
            _ => Err(DeError::plain(format!("expected a name or a mapping with one key, found {}", self.node.kind()))),
        };
        result.map_err(|error| error.or_at(self.node.span))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(NodeDeserializer { node }).map(Some).map_err(|error| error.or_at(node.span))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.current = Some(entry);
        seed.deserialize(entry.key.as_str().into_deserializer())
            .map(Some)
            .map_err(|error: DeError| error.or_at(entry.key_span))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some(entry) = self.current.take() else {
            return Err(DeError::plain("a value was asked for before its key".to_owned()));
        };
        seed.deserialize(NodeDeserializer { node: &entry.value }).map_err(|error| {
            // A missing key has no place of its own: the key that owns the mapping is the nearest one.
            let at = if error.blames_key { entry.key_span } else { entry.value.span };
            error.or_at(at)
        })
    }
}

struct OneEntry<'a> {
    entry: &'a Entry,
}

impl<'de, 'a> EnumAccess<'de> for OneEntry<'a> {
    type Error = DeError;
    type Variant = OneValue<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, OneValue<'a>), DeError> {
        let variant = seed
            .deserialize(self.entry.key.as_str().into_deserializer())
            .map_err(|error: DeError| error.or_at(self.entry.key_span))?;
        Ok((variant, OneValue { entry: self.entry }))
    }
}

struct OneValue<'a> {
    entry: &'a Entry,
}

impl<'de> VariantAccess<'de> for OneValue<'_> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        match self.entry.value.value {
            NodeValue::Null => Ok(()),
            _ => Err(DeError::plain(format!("`{}` takes no value", self.entry.key)).or_at(self.entry.value.span)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        seed.deserialize(NodeDeserializer { node: &self.entry.value }).map_err(|error| error.or_at(self.entry.key_span))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_any(NodeDeserializer { node: &self.entry.value }, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_any(NodeDeserializer { node: &self.entry.value }, visitor)
            .map_err(|error| error.or_at(self.entry.key_span))
    }
}
