//! Text → tree. Duplicate keys, unknown tags, several documents and alias bombs are errors; `<<` merges as people
//! expect. Scalar resolution is YAML 1.2 core, with the one restriction that numbers have no leading zeros.

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan};

use super::{Entry, Node, NodeValue};
use crate::source::{Diagnostic, SourceId, Span};

const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 2_000_000;

/// Parses one YAML document.
///
/// # Errors
/// A [`Diagnostic`] with the place of the first problem.
pub fn parse(source: SourceId, text: &str) -> Result<Node, Diagnostic> {
    let mut builder = Builder { source, parser: Parser::new_from_str(text), anchors: Vec::new(), nodes: 0 };
    builder.document()
}

struct Builder<'a> {
    source: SourceId,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: Vec<(usize, Node)>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Diagnostic> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.span(span))),
            Some(Err(error)) => {
                let marker = *error.marker();
                Err(Diagnostic::at(
                    Span {
                        source: self.source,
                        line: u32::try_from(marker.line()).unwrap_or(1).max(1),
                        column: u32::try_from(marker.col()).unwrap_or(0),
                        len: 1,
                    },
                    format!("not valid YAML: {}", error.info()),
                ))
            }
            None => Err(Diagnostic::new("not valid YAML: the text ends too early")),
        }
    }

    fn span(&self, span: YamlSpan) -> Span {
        let len =
            if span.end.line() == span.start.line() { span.end.col().saturating_sub(span.start.col()) } else { 1 };
        Span {
            source: self.source,
            line: u32::try_from(span.start.line()).unwrap_or(1).max(1),
            column: u32::try_from(span.start.col()).unwrap_or(0),
            len: u32::try_from(len).unwrap_or(1).max(1),
        }
    }

    fn document(&mut self) -> Result<Node, Diagnostic> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(_) => {
                    if root.is_some() {
                        return Err(Diagnostic::at(span, "a second YAML document in one file")
                            .with_hint("keep one study per file; compose them with `extends:`"));
                    }
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => return Err(Diagnostic::at(span, "not valid YAML: content outside of a document")),
            }
        }
        Ok(root.unwrap_or_else(|| {
            let span = Span { source: self.source, line: 1, column: 0, len: 1 };
            Node { value: NodeValue::Null, span }
        }))
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Diagnostic> {
        if depth > MAX_DEPTH {
            return Err(Diagnostic::at(span, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.count(1, span)?;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = match &tag {
                    None => None,
                    Some(tag) if tag.is_yaml_core_schema() => Some(tag.suffix.as_str()),
                    Some(tag) => {
                        return Err(Diagnostic::at(span, format!("unknown tag `{}{}`", tag.handle, tag.suffix)));
                    }
                };
                let value = scalar(&text, style, tag, span)?;
                let node = Node { value, span };
                self.remember(anchor, &node);
                Ok(node)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, item_span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.node(event, item_span, depth + 1)?);
                }
                let node = Node { value: NodeValue::Seq(items), span };
                self.remember(anchor, &node);
                Ok(node)
            }
            Event::MappingStart(anchor, _) => {
                let entries = self.mapping(depth)?;
                let node = Node { value: NodeValue::Map(entries), span };
                self.remember(anchor, &node);
                Ok(node)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.iter().rev().find(|(id, _)| *id == anchor).map(|(_, node)| node.clone());
                let node = node.ok_or_else(|| Diagnostic::at(span, "alias of an anchor that is not finished"))?;
                self.count(size(&node), span)?;
                Ok(Node { value: node.value, span })
            }
            _ => Err(Diagnostic::at(span, "not valid YAML: unexpected structure")),
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, key_span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let plain_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let Event::Scalar(key, ..) = event else {
                return Err(Diagnostic::at(key_span, "a key must be plain text")
                    .with_hint("text that starts with `{`, `[`, `*` or `&` needs quotes"));
            };
            let key = key.into_owned();
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            if plain_merge {
                merged.extend(merge_sources(&value)?);
                continue;
            }
            if let Some(first_line) = seen.insert(key.clone(), key_span.line) {
                return Err(Diagnostic::at(key_span, format!("duplicate key `{key}`"))
                    .with_hint(format!("it stands on line {first_line} already; keep one of the two")));
            }
            entries.push(Entry { key, key_span, value });
        }
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Diagnostic> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::at(span, format!("more than {MAX_NODES} values after aliases are expanded")));
        }
        Ok(())
    }
}

fn size(node: &Node) -> usize {
    match &node.value {
        NodeValue::Seq(items) => 1 + items.iter().map(size).sum::<usize>(),
        NodeValue::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
        _ => 1,
    }
}

fn merge_sources(value: &Node) -> Result<Vec<Entry>, Diagnostic> {
    match &value.value {
        NodeValue::Map(entries) => Ok(entries.clone()),
        NodeValue::Seq(items) => {
            let mut all = Vec::new();
            for item in items {
                all.extend(merge_sources(item)?);
            }
            Ok(all)
        }
        _ => Err(Diagnostic::at(value.span, format!("`<<` merges mappings, but this is {}", value.kind()))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>, span: Span) -> Result<NodeValue, Diagnostic> {
    if tag == Some("str") || (style != ScalarStyle::Plain && tag.is_none()) {
        return Ok(NodeValue::Text(text.to_owned()));
    }
    let value = plain(text);
    let fits = match tag {
        None => true,
        Some("null") => value == NodeValue::Null,
        Some("bool") => matches!(value, NodeValue::Bool(_)),
        Some("int") => matches!(value, NodeValue::Int(_)),
        Some("float") => matches!(value, NodeValue::Int(_) | NodeValue::Float(_)),
        Some(_) => false,
    };
    if !fits {
        return Err(Diagnostic::at(span, format!("`{text}` does not fit its tag `!!{}`", tag.unwrap_or_default())));
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | "-.Inf" | "-.INF") {
        return Err(Diagnostic::at(span, format!("`{text}` is not a usable number")));
    }
    Ok(value)
}

fn plain(text: &str) -> NodeValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        "true" | "True" | "TRUE" => return NodeValue::Bool(true),
        "false" | "False" | "FALSE" => return NodeValue::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let integral: &str = digits.split(['.', 'e', 'E']).next().unwrap_or("");
    let leading_zero = integral.len() > 1 && integral.starts_with('0');
    let starts_numeric = digits.starts_with(|c: char| c.is_ascii_digit())
        || (digits.starts_with('.') && digits[1..].starts_with(|c: char| c.is_ascii_digit()));
    if !starts_numeric || leading_zero || text.contains('_') {
        return NodeValue::Text(text.to_owned());
    }
    if digits.bytes().all(|b| b.is_ascii_digit())
        && let Ok(number) = text.parse::<i64>()
    {
        return NodeValue::Int(number);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => NodeValue::Float(number),
        _ => NodeValue::Text(text.to_owned()),
    }
}
