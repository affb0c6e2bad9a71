//! From texts to one tree: `extends` with cycle detection, deep merging, and `--set`. Reading files is the caller's
//! business (a function from path to text), so that everything here stays pure.

use crate::source::{Diagnostic, SourceId, SourceMap, Span};
use crate::yaml::{Entry, Node, NodeValue, parse};

/// Keys whose value is one choice: overriding replaces it whole instead of merging two choices.
const REPLACED_WHOLE: [&str; 4] = ["stop", "dataset", "pick", "warmup"];

/// Mappings whose keys are free: everything after them in a `--set` path is one key, dots included.
const FREE_KEYS: [&str; 6] = ["serve", "env", "set", "grid", "fields", "paths"];

/// Reads a study or site file and everything that it extends.
///
/// `read` gets a path and answers with the text or with the reason why not. Relative `extends` paths start at the folder
/// of the file that names them.
///
/// # Errors
/// The first problem, with its place.
pub fn load(
    path: &str,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    sources: &mut SourceMap,
) -> Result<Node, Diagnostic> {
    load_file(path, None, read, sources, &mut Vec::new())
}

fn load_file(
    path: &str,
    asked_at: Option<Span>,
    read: &mut dyn FnMut(&str) -> Result<String, String>,
    sources: &mut SourceMap,
    open: &mut Vec<String>,
) -> Result<Node, Diagnostic> {
    if open.iter().any(|other| other == path) {
        let cycle = format!("`extends` goes in a circle: {} → {path}", open.join(" → "));
        return Err(Diagnostic {
            message: cycle,
            span: asked_at,
            hint: Some("take one of these `extends` out".into()),
        });
    }
    let text = read(path).map_err(|reason| Diagnostic {
        message: format!("cannot read `{path}`: {reason}"),
        span: asked_at,
        hint: None,
    })?;
    let source = sources.add(path, text.clone());
    let own = parse(source, &text)?;
    if own.as_map().is_none() {
        return Err(Diagnostic::at(own.span, format!("expected a mapping of keys, found {}", own.kind()))
            .with_hint("start from `servelab init`, or see docs: study files"));
    }
    open.push(path.to_owned());
    let mut base: Option<Node> = None;
    for parent in parents(&own)? {
        let parent_path = beside(path, parent.as_text().unwrap_or_default());
        let node = load_file(&parent_path, Some(parent.span), read, sources, open)?;
        base = Some(match base {
            Some(earlier) => merge(earlier, node),
            None => node,
        });
    }
    open.pop();
    Ok(match base {
        Some(base) => merge(without(base, "extends"), own),
        None => own,
    })
}

fn parents(node: &Node) -> Result<Vec<Node>, Diagnostic> {
    let Some(value) = node.get("extends") else { return Ok(Vec::new()) };
    let items = match &value.value {
        NodeValue::Text(_) => vec![value.clone()],
        NodeValue::Seq(items) => items.clone(),
        NodeValue::Null => Vec::new(),
        _ => {
            return Err(Diagnostic::at(
                value.span,
                format!("expected a path or a list of paths, found {}", value.kind()),
            ));
        }
    };
    match items.iter().find(|item| item.as_text().is_none()) {
        Some(wrong) => Err(Diagnostic::at(wrong.span, format!("expected a path, found {}", wrong.kind()))),
        None => Ok(items),
    }
}

/// A path as the file at `path` means it: absolute, or from that file's folder, with `.` and `..` resolved.
pub fn beside(path: &str, named: &str) -> String {
    if named.starts_with('/') {
        return named.to_owned();
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for step in named.split('/') {
        match step {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| !matches!(*last, ".." | "" | ".")) => {
                parts.pop();
            }
            _ => parts.push(step),
        }
    }
    parts.join("/")
}

fn without(mut node: Node, key: &str) -> Node {
    if let NodeValue::Map(entries) = &mut node.value {
        entries.retain(|entry| entry.key != key);
    }
    node
}

/// Lays `over` on `base`: mappings merge key by key, everything else is replaced, `null` takes a key away.
pub fn merge(base: Node, over: Node) -> Node {
    match (base.value, over.value) {
        (NodeValue::Map(mut entries), NodeValue::Map(changes)) => {
            for change in changes {
                let position = entries.iter().position(|entry| entry.key == change.key);
                match (position, &change.value.value) {
                    (Some(at), NodeValue::Null) => {
                        entries.remove(at);
                    }
                    (Some(at), _) => {
                        let old = std::mem::replace(&mut entries[at], change.clone());
                        if !REPLACED_WHOLE.contains(&change.key.as_str()) {
                            entries[at].value = merge(old.value, change.value);
                        }
                    }
                    (None, _) => entries.push(change),
                }
            }
            Node { value: NodeValue::Map(entries), span: over.span }
        }
        (_, value) => Node { value, span: over.span },
    }
}

/// Applies one `--set KEY=YAML`.
///
/// # Errors
/// When there is no `=`, the value is not YAML, or the path runs through something that is no mapping.
pub fn set(root: &mut Node, assignment: &str, sources: &mut SourceMap) -> Result<(), Diagnostic> {
    let source = sources.add("--set", assignment);
    let start = Span { source, line: 1, column: 0, len: 1 };
    let Some((path, text)) = assignment.split_once('=') else {
        return Err(Diagnostic::at(Span { len: char_len(assignment), ..start }, "no `=` in this setting")
            .with_hint("write `--set KEY=VALUE`, e.g. `--set load.stop.requests=20`"));
    };
    let key_span = Span { len: char_len(path), ..start };
    if path.trim().is_empty() || path.split('.').any(|step| step.trim().is_empty()) {
        return Err(Diagnostic::at(key_span, "an empty key in this setting").with_hint("write `--set KEY=VALUE`"));
    }
    let mut value = parse(source, text).map_err(|problem| {
        let column = char_len(path) + 1;
        Diagnostic { span: Some(Span { column, len: char_len(text), ..start }), ..problem }
    })?;
    shift(&mut value, source, char_len(path) + 1);
    place(root, path.trim(), key_span, value)
}

fn char_len(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

fn shift(node: &mut Node, source: SourceId, by: u32) {
    let move_span = |span: &mut Span| {
        if span.source == source && span.line == 1 {
            span.column += by;
        }
    };
    move_span(&mut node.span);
    match &mut node.value {
        NodeValue::Seq(items) => items.iter_mut().for_each(|item| shift(item, source, by)),
        NodeValue::Map(entries) => {
            for entry in entries {
                move_span(&mut entry.key_span);
                shift(&mut entry.value, source, by);
            }
        }
        _ => {}
    }
}

fn place(node: &mut Node, path: &str, key_span: Span, value: Node) -> Result<(), Diagnostic> {
    if node.value == NodeValue::Null {
        node.value = NodeValue::Map(Vec::new());
    }
    let kind = node.kind();
    if let NodeValue::Seq(items) = &mut node.value {
        let (step, rest) = path.split_once('.').map_or((path, None), |(step, rest)| (step, Some(rest)));
        let len = items.len();
        let Some(item) = step.parse::<usize>().ok().and_then(|at| items.get_mut(at)) else {
            return Err(Diagnostic::at(key_span, format!("`{step}` is not a position in a list of {len}")));
        };
        return match rest {
            Some(rest) => place(item, rest, key_span, value),
            None => {
                *item = value;
                Ok(())
            }
        };
    }
    let NodeValue::Map(entries) = &mut node.value else {
        return Err(Diagnostic::at(key_span, format!("cannot set `{path}` inside {kind}")));
    };
    // The longest existing key wins, so that labels and settings with dots in their names can be reached.
    let existing = entries
        .iter()
        .map(|entry| entry.key.clone())
        .filter(|key| path == key || path.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.')))
        .max_by_key(String::len);
    let step = existing.unwrap_or_else(|| path.split('.').next().unwrap_or(path).to_owned());
    let rest = path.strip_prefix(step.as_str()).and_then(|rest| rest.strip_prefix('.'));
    let at = match entries.iter().position(|entry| entry.key == step) {
        Some(at) => at,
        None => {
            let empty = Node { value: NodeValue::Null, span: value.span };
            entries.push(Entry { key: step.clone(), key_span, value: empty });
            entries.len() - 1
        }
    };
    let Some(rest) = rest else {
        if value.value == NodeValue::Null {
            entries.remove(at);
        } else {
            entries[at] = Entry { key: step, key_span, value };
        }
        return Ok(());
    };
    let slot = &mut entries[at].value;
    if FREE_KEYS.contains(&step.as_str()) && !has_key_path(slot, rest) {
        if slot.value == NodeValue::Null {
            slot.value = NodeValue::Map(Vec::new());
        }
        if let NodeValue::Map(free) = &mut slot.value {
            free.push(Entry { key: rest.to_owned(), key_span, value });
            return Ok(());
        }
    }
    if REPLACED_WHOLE.contains(&step.as_str()) && !has_key_path(slot, rest) {
        slot.value = NodeValue::Map(Vec::new());
    }
    place(slot, rest, key_span, value)
}

fn has_key_path(node: &Node, path: &str) -> bool {
    node.as_map().is_some_and(|entries| {
        entries
            .iter()
            .any(|entry| path == entry.key || path.strip_prefix(&entry.key).is_some_and(|rest| rest.starts_with('.')))
    })
}
