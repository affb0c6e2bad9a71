//! Looking into JSON documents, with a failure that shows where the look went wrong.

use std::collections::BTreeSet;

use serde_json::Value;

/// Parses exactly one document.
#[track_caller]
pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| {
        let start: String = text.chars().take(400).collect();
        panic!("this is no JSON document ({error}):\n{start}")
    })
}

/// The value at a dotted path; numbers index lists.
#[track_caller]
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|step| !step.is_empty()).fold(value, |value, step| {
        let found = match step.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(step),
        };
        found.unwrap_or_else(|| panic!("nothing at `{step}` of `{path}` in {value}"))
    })
}

/// Text at a dotted path.
#[track_caller]
pub fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_else(|| panic!("no text at `{path}`: {}", at(value, path)))
}

/// A number at a dotted path.
#[track_caller]
pub fn number(value: &Value, path: &str) -> f64 {
    at(value, path).as_f64().unwrap_or_else(|| panic!("no number at `{path}`: {}", at(value, path)))
}

/// The texts of a list at a dotted path.
#[track_caller]
pub fn strings<'a>(value: &'a Value, path: &str) -> Vec<&'a str> {
    let list = at(value, path).as_array().unwrap_or_else(|| panic!("no list at `{path}`"));
    list.iter().map(|item| item.as_str().unwrap_or_else(|| panic!("no text in `{path}`: {item}"))).collect()
}

/// The numbers of a list at a dotted path.
#[track_caller]
pub fn numbers(value: &Value, path: &str) -> Vec<f64> {
    let list = at(value, path).as_array().unwrap_or_else(|| panic!("no list at `{path}`"));
    list.iter().map(|item| item.as_f64().unwrap_or_else(|| panic!("no number in `{path}`: {item}"))).collect()
}

/// The keys of a mapping.
#[track_caller]
pub fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap_or_else(|| panic!("no mapping: {value}")).keys().map(String::as_str).collect()
}
