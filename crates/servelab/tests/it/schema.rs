//! `servelab schema` against the parser: both must accept the same files and reject the same ones, because editors show
//! what the one says and `plan` what the other says.

use serde_json::{Value, json};
use servelab_core::site::Site;
use servelab_core::source::SourceMap;
use servelab_core::study::Study;
use servelab_core::yaml;
use servelab_testkit::{TINY, at};

use super::{example, place, repository};

const STUDIES: [&str; 7] = [
    "glm46-phases",
    "glm46-quick-test",
    "glm46-focused",
    "glm46-ablation",
    "pd-gptoss",
    "profiling-llama8b",
    "quickstart",
];

type Parser = fn(&Value) -> Result<(), String>;

fn schema(kind: &str) -> Value {
    place().servelab(&format!("schema {kind}")).run().expect(0).json()
}

fn to_json(text: &str) -> Value {
    let mut sources = SourceMap::default();
    let id = sources.add("file", text);
    yaml::parse(id, text).unwrap_or_else(|problem| panic!("{}", problem.render(&sources))).to_json()
}

fn parses_as_study(document: &Value) -> Result<(), String> {
    let text = document.to_string();
    let mut sources = SourceMap::default();
    let id = sources.add("file", text.as_str());
    let node = yaml::parse(id, &text).map_err(|problem| problem.message)?;
    yaml::from_node::<Study>(&node).map(|_| ()).map_err(|problem| problem.message)
}

fn parses_as_site(document: &Value) -> Result<(), String> {
    let text = document.to_string();
    let mut sources = SourceMap::default();
    let id = sources.add("file", text.as_str());
    let node = yaml::parse(id, &text).map_err(|problem| problem.message)?;
    yaml::from_node::<Site>(&node).map(|_| ()).map_err(|problem| problem.message)
}

/// An example with its `extends` applied, as `plan --write` stores it.
fn composed(name: &str) -> Value {
    let place = place();
    place.servelab("plan --write --summary --root out").args([example(name)]).run().expect(0);
    place.servelab("plan --write --json --root out").args([example(name)]).run().expect(0);
    let stored = place.list("out/studies").pop().unwrap();
    to_json(&place.read(&format!("out/studies/{stored}/study.yaml")))
}

#[test]
fn the_schemas_are_schemas() {
    for kind in ["study", "site"] {
        let schema = schema(kind);
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(at(&schema, "additionalProperties"), &json!(false), "{kind}");
        let described = at(&schema, "properties").as_object().unwrap();
        for (key, property) in described {
            let has_words = property.get("description").is_some() || property.get("$ref").is_some();
            assert!(has_words, "{kind}: nothing explains `{key}`");
        }
    }
    assert_eq!(place().servelab("schema").run().expect(0).json(), schema("study"), "study is the default");
}

#[test]
fn every_example_is_valid() {
    let study = jsonschema::validator_for(&schema("study")).unwrap();
    for name in STUDIES {
        let document = composed(name);
        let errors: Vec<String> = study.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
    }
    let site = jsonschema::validator_for(&schema("site")).unwrap();
    for entry in std::fs::read_dir(repository().join("examples/sites")).unwrap() {
        let path = entry.unwrap().path();
        let document = to_json(&std::fs::read_to_string(&path).unwrap());
        let errors: Vec<String> = site.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}

/// Documents that differ from `document` in one place: a renamed key, a value of another type, a key left out.
fn mutations(document: &Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    walk(document, "", &mut |pointer, value| {
        if let Some(map) = value.as_object() {
            for key in map.keys() {
                let mut renamed = map.clone();
                let inner = renamed.remove(key).unwrap();
                out.push((format!("{pointer} without {key}"), put(document, pointer, Value::Object(renamed.clone()))));
                renamed.insert(format!("{key}x"), inner);
                out.push((format!("{pointer} with {key}x"), put(document, pointer, Value::Object(renamed))));
            }
        }
        for other in
            [json!(null), json!(true), json!(-1), json!(1.5), json!("word"), json!([]), json!({}), json!(["w"])]
        {
            out.push((format!("{pointer} as {other}"), put(document, pointer, other)));
        }
    });
    out
}

fn walk(value: &Value, pointer: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(pointer, value);
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                walk(inner, &format!("{pointer}/{key}"), visit);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                walk(inner, &format!("{pointer}/{index}"), visit);
            }
        }
        _ => {}
    }
}

fn put(document: &Value, pointer: &str, value: Value) -> Value {
    let mut document = document.clone();
    *document.pointer_mut(pointer).unwrap() = value;
    document
}

/// What JSON Schema cannot say: how two values of one file relate.
const BEYOND_A_SCHEMA: [&str; 1] = ["ends before it begins"];

/// Every single change to every example: the schema and the parser must be of one mind. What the schema alone rejects at
/// first sight may also be caught by the checks that follow the parsing, so `plan` has the last word.
fn agree(kind: &str, documents: &[Value], parses: Parser, planned: impl Fn(&Value) -> bool) {
    let validator = jsonschema::validator_for(&schema(kind)).unwrap();
    let (mut accepted, mut rejected, mut disputes) = (0, 0, Vec::new());
    for document in documents {
        for (what, changed) in mutations(document) {
            match (parses(&changed), validator.is_valid(&changed)) {
                (Ok(()), true) => accepted += 1,
                (Err(_), false) => rejected += 1,
                (Ok(()), false) if !planned(&changed) => rejected += 1,
                (Ok(()), false) => {
                    let error = validator.iter_errors(&changed).next().map(|error| error.to_string());
                    disputes.push(format!("only the schema rejects {what}: {}", error.unwrap_or_default()));
                }
                (Err(error), true) if BEYOND_A_SCHEMA.iter().any(|words| error.contains(words)) => rejected += 1,
                (Err(error), true) => disputes.push(format!("only the parser rejects {what}: {error}")),
            }
        }
    }
    disputes.sort();
    disputes.dedup();
    assert!(disputes.is_empty(), "{} disputes\n{}", disputes.len(), disputes.join("\n"));
    assert!(accepted > 20 && rejected > 100, "{accepted} accepted, {rejected} rejected: too few to mean anything");
}

#[test]
fn the_study_schema_agrees_with_the_parser() {
    let mut documents: Vec<Value> = STUDIES.iter().map(|name| composed(name)).collect();
    documents.push(to_json(TINY));
    let place = place();
    let sites = repository().join("examples/sites");
    for entry in std::fs::read_dir(&sites).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        place.write(&format!("sites/{name}"), &std::fs::read_to_string(entry.path()).unwrap());
    }
    agree("study", &documents, parses_as_study, |document| {
        place.write("study.yaml", &document.to_string());
        place.servelab("plan --summary study.yaml").run().code == Some(0)
    });
}

#[test]
fn the_site_schema_agrees_with_the_parser() {
    let folder = std::fs::read_dir(repository().join("examples/sites")).unwrap();
    let read = |path: std::path::PathBuf| to_json(&std::fs::read_to_string(path).unwrap());
    let documents: Vec<Value> = folder.map(|entry| read(entry.unwrap().path())).collect();
    agree("site", &documents, parses_as_site, |_| true);
}
