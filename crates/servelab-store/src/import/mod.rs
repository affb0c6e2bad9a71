//! Results of other tools: found below files and folders, told apart by their content, read into [`ImportedResult`]s under
//! our definitions. One module per format in `formats`; names of files and folders are hints only. Storing them is
//! `stored`'s.

mod formats;
mod json;
mod result;
mod run;
mod stored;
mod walk;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use formats::FORMATS;
pub use json::{Json, JsonError};
pub use result::ImportedResult;
pub use run::{Arrivals, Latency, Run, StatedMs};
pub use stored::{StoredImport, import_rows, import_study, store_imports};

use crate::error::StoreError;

/// One file, read.
pub struct Doc<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// Its text.
    pub text: &'a str,
    /// Its JSON documents; empty for other files.
    pub json: Vec<Json<'a>>,
    /// Reads a file beside it.
    pub beside: &'a dyn Fn(&str) -> Option<String>,
}

impl Doc<'_> {
    /// The first JSON document.
    pub fn root(&self) -> Option<&Json<'_>> {
        self.json.first()
    }

    /// Its file name.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// What a file turned out to hold.
pub enum Parsed {
    /// Results.
    Runs(Vec<Run>),
    /// A configuration that results may refer to by its hash.
    Config(LegacyConfig),
    /// Facts about the results below the same folder.
    Facts(FolderFacts),
    /// A result of this tool.
    Own(Box<servelab_core::result::BenchResult>),
    /// Part of another file's result, which reads it itself.
    Companion,
}

/// A configuration of the framework of documents 000 and 001.
#[derive(Debug, Clone, PartialEq)]
pub struct LegacyConfig {
    /// The hash in the file's name.
    pub named_hash: String,
    /// The hash of what the file holds.
    pub content_hash: String,
    /// The settings.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// What a metadata file says about a whole folder of results.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FolderFacts {
    /// GPU model.
    pub gpu_model: Option<String>,
    /// GPUs in use.
    pub gpus: Option<u32>,
    /// Names and notes.
    pub labels: BTreeMap<String, String>,
}

/// A file format: how it is recognised by its content, and how it is read.
pub struct Format {
    /// Name in results and documentation.
    pub name: &'static str,
    /// Who writes it.
    pub tool: &'static str,
    /// Read from files that the real tool wrote, in this project's tests.
    pub is_tested: bool,
    /// Recognises it.
    pub detect: fn(&Doc<'_>) -> bool,
    /// Reads it; the error says what is wrong with the file.
    pub parse: fn(&Doc<'_>) -> Result<Parsed, String>,
}

/// A file that was not imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// True for a file that was named on the command line, or that is a result and damaged: people should hear of it.
    pub is_problem: bool,
}

/// Everything found below some paths.
#[derive(Debug, Default)]
pub struct Imports {
    /// Results, by path.
    pub results: Vec<ImportedResult>,
    /// Other files.
    pub skipped: Vec<Skipped>,
}

/// What came out of one file.
struct FileOutcome {
    path: PathBuf,
    is_named: bool,
    outcome: Result<(&'static str, Vec<ImportedResult>, Parsed), String>,
    is_result: bool,
}

/// Reads everything below the paths. A damaged file is skipped and named, never the end of the import.
///
/// # Errors
/// A path that does not exist.
pub fn import(paths: &[PathBuf]) -> Result<Imports, StoreError> {
    let files = walk::files(paths)?;
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len().max(1));
    let mut outcomes: Vec<(usize, FileOutcome)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let idx = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(idx) else { return done };
                done.push((idx, read_file(file)));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    outcomes.sort_by_key(|(idx, _)| *idx);
    Ok(assemble(outcomes.into_iter().map(|(_, outcome)| outcome).collect()))
}

fn read_file(file: &walk::Found) -> FileOutcome {
    let (mut is_result, path) = (false, file.path.clone());
    let outcome = walk::read(&path).and_then(|text| {
        let beside = |name: &str| walk::read(&path.parent()?.join(name)).ok();
        import_text(&path, &text, &beside, &mut is_result)
    });
    FileOutcome { path, is_named: file.is_named, outcome, is_result }
}

/// Reads one file's text; `is_result` becomes true once its format is known.
fn import_text(
    path: &Path,
    text: &str,
    beside: &dyn Fn(&str) -> Option<String>,
    is_result: &mut bool,
) -> Result<(&'static str, Vec<ImportedResult>, Parsed), String> {
    let start = text.trim_start().as_bytes().first().copied();
    let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
    let from_yaml = if is_yaml && !matches!(start, Some(b'{' | b'[')) { yaml_to_json(text)? } else { String::new() };
    let json = match start {
        _ if !from_yaml.is_empty() => Json::parse_all(&from_yaml).map_err(|error| error.what.to_owned())?,
        Some(b'{' | b'[') => Json::parse_all(text).map_err(|error| format!("{} (byte {})", error.what, error.at))?,
        _ => Vec::new(),
    };
    let doc = Doc { path, text, json, beside };
    let format = FORMATS.iter().find(|format| (format.detect)(&doc)).ok_or("no known result format")?;
    *is_result = true;
    let parsed = (format.parse)(&doc)?;
    let name = path.to_string_lossy();
    let results = match parsed {
        Parsed::Runs(runs) if runs.is_empty() => return Err("no run in it".to_owned()),
        Parsed::Runs(runs) => {
            let import = |(index, run)| ImportedResult::of(run, format.name, &name, index);
            return Ok((format.name, (0..).zip(runs).map(import).collect(), Parsed::Companion));
        }
        Parsed::Own(result) => {
            return Ok((format.name, vec![ImportedResult::own(*result, format.name, &name)], Parsed::Companion));
        }
        _ => Vec::new(),
    };
    Ok((format.name, results, parsed))
}

/// Larger YAML files are not read: the tools that write YAML write JSON too.
const MAX_YAML_BYTES: usize = 256 << 20;

fn yaml_to_json(text: &str) -> Result<String, String> {
    if text.len() > MAX_YAML_BYTES {
        return Err("larger than 256 MiB as YAML; export it as JSON".to_owned());
    }
    let mut sources = servelab_core::source::SourceMap::default();
    let id = sources.add("", "");
    match servelab_core::yaml::parse(id, text) {
        Ok(node) if node.as_map().is_some() => Ok(node.to_json().to_string()),
        Ok(_) => Err("no known result format".to_owned()),
        Err(diagnostic) => Err(diagnostic.message),
    }
}

/// For tests and fuzzing: reads a text as if it were a file of this name.
pub fn import_str(name: &str, text: &str) -> Result<Vec<ImportedResult>, String> {
    import_text(Path::new(name), text, &|_| None, &mut false).map(|(_, results, _)| results)
}

fn assemble(outcomes: Vec<FileOutcome>) -> Imports {
    let mut imports = Imports::default();
    let mut configs: Vec<LegacyConfig> = Vec::new();
    let mut facts: Vec<(PathBuf, FolderFacts)> = Vec::new();
    for FileOutcome { path, is_named, outcome, is_result } in outcomes {
        match outcome {
            Ok((_, results, parsed)) => {
                imports.results.extend(results);
                match parsed {
                    Parsed::Config(config) => configs.push(config),
                    Parsed::Facts(found) => facts.push((path.parent().unwrap_or(Path::new("")).to_owned(), found)),
                    Parsed::Runs(_) | Parsed::Own(_) | Parsed::Companion => {}
                }
            }
            Err(reason) => imports.skipped.push(Skipped { path, reason, is_problem: is_named || is_result }),
        }
    }
    for imported in &mut imports.results {
        attach_config(imported, &configs);
        attach_facts(imported, &facts);
    }
    mark_copies(&mut imports.results);
    imports
}

/// Settings come from a configuration only when its content has the hash that the result names.
fn attach_config(imported: &mut ImportedResult, configs: &[LegacyConfig]) {
    let Some(hash) = imported.run.labels.get("config_hash").cloned() else { return };
    if let Some(config) = configs.iter().find(|config| config.content_hash == hash) {
        imported.run.settings = config.settings.clone();
        imported.add_note(format!("settings are those of the configuration whose content has the hash {hash}"));
        if let Some(serde_json::Value::String(model)) = config.settings.get("model_path") {
            imported.run.model.get_or_insert_with(|| model.clone());
        }
        if let Some(serde_json::Value::String(name)) = config.settings.get("name") {
            imported.run.labels.insert("name".to_owned(), name.clone());
        }
    } else if let Some(config) = configs.iter().find(|config| config.named_hash == hash) {
        imported.add_note(format!(
            "a configuration is named {hash}, but its content has the hash {}: it was edited since, so its settings are not used",
            config.content_hash
        ));
    }
}

fn attach_facts(imported: &mut ImportedResult, facts: &[(PathBuf, FolderFacts)]) {
    let path = PathBuf::from(&imported.path);
    let nearest = facts
        .iter()
        .filter(|(folder, _)| path.starts_with(folder))
        .max_by_key(|(folder, _)| folder.components().count());
    let Some((_, found)) = nearest else { return };
    let run = &mut imported.run;
    run.gpu_model = run.gpu_model.take().or_else(|| found.gpu_model.clone());
    run.gpus = run.gpus.or(found.gpus);
    for (key, value) in &found.labels {
        run.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
}

fn mark_copies(results: &mut [ImportedResult]) {
    let mut first: HashMap<String, String> = HashMap::new();
    for imported in results {
        // Two runs in which nothing succeeded are equal without being copies.
        if imported.result.requests.completed == 0 {
            continue;
        }
        let which = if imported.index > 0 { format!(" (result {})", imported.index + 1) } else { String::new() };
        match first.entry(imported.fingerprint()) {
            Entry::Occupied(other) => imported.is_copy_of(other.get().clone()),
            Entry::Vacant(place) => {
                place.insert(format!("`{}`{which}", imported.path));
            }
        }
    }
}
