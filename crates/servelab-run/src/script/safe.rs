//! What may stand in a script. Values reach the shell quoted, so only control characters are refused there; scheduler
//! lines have no quoting that all versions share, so their values are held to a plain alphabet.

use servelab_core::site::Site;

/// A value that cannot be written into a script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// A control character, which no quoting makes harmless in every place.
    #[error("the site's `{key}` holds a control character ({value:?}); write it on one line, without tabs")]
    Control {
        /// The key of the site file.
        key: String,
        /// Its value.
        value: String,
    },
    /// A value with a meaning of its own in a scheduler line.
    #[error("the site's `{key}` is `{value}`: a scheduler line takes letters, digits and `{allowed}` only")]
    Directive {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Other characters that are allowed.
        allowed: &'static str,
    },
    /// A key that the scheduler has nothing for.
    #[error("the site's `{key}` means nothing to {scheduler}; {instead}")]
    NotForThis {
        /// The key.
        key: &'static str,
        /// `SLURM` or `PBS`.
        scheduler: &'static str,
        /// What to write.
        instead: &'static str,
    },
    /// A name that is no shell variable.
    #[error("the site's `{key}` names `{name}`, which is no name of an environment variable")]
    VariableName {
        /// `env` or `secrets`.
        key: &'static str,
        /// The name.
        name: String,
    },
}

/// Characters beside letters and digits that every scheduler takes in a value.
const PLAIN: &str = "_.:/@%+=-";
/// Also needed by constraints, node lists and select statements.
const EXPRESSION: &str = "_.:/@%+=-,&|()[]*!";

/// A value of a scheduler line.
pub(super) fn value<'a>(key: &str, text: &'a str) -> Result<&'a str, ScriptError> {
    allowed(key, text, PLAIN)
}

/// A value with operators: a constraint, a list of nodes, chunks of a select statement.
pub(super) fn expression<'a>(key: &str, text: &'a str) -> Result<&'a str, ScriptError> {
    allowed(key, text, EXPRESSION)
}

fn allowed<'a>(key: &str, text: &'a str, alphabet: &'static str) -> Result<&'a str, ScriptError> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || alphabet.contains(c);
    if !text.is_empty() && text.chars().all(is_good) {
        return Ok(text);
    }
    Err(ScriptError::Directive { key: key.to_owned(), value: text.to_owned(), allowed: alphabet })
}

/// Refuses control characters anywhere in the site, and names of variables that are none.
pub(super) fn check_site(site: &Site) -> Result<(), ScriptError> {
    let mut values: Vec<(&str, &str)> = Vec::new();
    let lists = [
        ("modules", &site.modules),
        ("exclude", &site.exclude),
        ("prologue", &site.prologue),
        ("epilogue", &site.epilogue),
        ("secrets", &site.secrets),
    ];
    for (key, list) in lists {
        values.extend(list.iter().map(|value| (key, value.as_str())));
    }
    values.extend(site.extra_directives.iter().map(|value| ("extra_directives", value.as_str())));
    let single = [
        ("venv", &site.venv),
        ("conda", &site.conda),
        ("scratch", &site.scratch),
        ("fabric.interface", &site.fabric.interface),
    ];
    values.extend(single.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))));
    if let Some(container) = &site.container {
        values.push(("container.image", &container.image));
        values.extend(container.binds.iter().map(|bind| ("container.binds", bind.as_str())));
    }
    for (name, value) in &site.env {
        check_name("env", name)?;
        values.push(("env", value));
    }
    for name in site.secrets.iter() {
        check_name("secrets", name)?;
    }
    match values.into_iter().find(|(_, value)| value.chars().any(char::is_control)) {
        Some((key, value)) => Err(ScriptError::Control { key: key.to_owned(), value: value.to_owned() }),
        None => Ok(()),
    }
}

fn check_name(key: &'static str, name: &str) -> Result<(), ScriptError> {
    let is_good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_good { Ok(()) } else { Err(ScriptError::VariableName { key, name: name.to_owned() }) }
}

/// Text inside a `#` comment: on one line, whatever it was.
pub(super) fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A label as part of a file or job name.
pub fn file_name(label: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
    let name: String = label.chars().map(plain).take(80).collect();
    let name = name.trim_start_matches(['.', '-']);
    if name.is_empty() { "point".to_owned() } else { name.to_owned() }
}
