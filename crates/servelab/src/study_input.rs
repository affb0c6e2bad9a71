//! From a path on the command line to everything that expansion needs: the study with its overrides, its site, model
//! and tokenizer facts. Reads files; decides nothing that `servelab-core` can decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use servelab_core::expand::{self, DatasetFacts, ExpandInput, OFFLINE_WORKLOAD};
use servelab_core::flags::{Dialect, FlagTable, HelpFlags};
use servelab_core::ids::PointId;
use servelab_core::model::{self, GpuFacts, ModelFacts};
use servelab_core::plan::Plan;
use servelab_core::site::{SITE_SCHEMA_VERSION, Site};
use servelab_core::source::{Diagnostic, SourceMap};
use servelab_core::study::{self, EngineKind, Study};
use servelab_core::version::VersionSpec;
use servelab_core::workload::{DatasetSpec, GENERATOR_VERSION};
use servelab_core::yaml::{self, Node};
use servelab_data::{Tokenizer, TokenizerSource};

use crate::error::CommandError;
use crate::files::{config_dir, folder_of, read_text};

/// Name of the built-in tokenizer in studies and on command lines.
pub(crate) const BUILTIN_TOKENIZER: &str = "builtin";

/// What the command line changes about a study.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--set KEY=YAML`.
    pub(crate) set: Vec<String>,
    /// `--site NAME`.
    pub(crate) site: Option<String>,
    /// `--engine KIND`.
    pub(crate) engine: Option<EngineKind>,
    /// `--engine-bin PATH`.
    pub(crate) engine_bin: Option<String>,
    /// `--max-requests N`.
    pub(crate) max_requests: Option<u32>,
    /// `--help-capture FILE`: a captured `--help=all` of the target environment.
    pub(crate) help_capture: Option<PathBuf>,
    /// `--study-folder DIR`: where relative paths begin.
    pub(crate) folder: Option<PathBuf>,
}

/// A study, ready to be expanded.
#[derive(Debug)]
pub(crate) struct StudyInput {
    pub(crate) study: Study,
    pub(crate) doc: Node,
    pub(crate) sources: SourceMap,
    pub(crate) site: Site,
    /// The site file as read; `None` for this machine.
    pub(crate) site_doc: Option<Node>,
    pub(crate) folder: PathBuf,
    /// Name of the study's file, for commands to copy.
    pub(crate) file: PathBuf,
    pub(crate) model_path: String,
    pub(crate) tokenizer: TokenizerSource,
    tokenizer_fingerprint: String,
    tokenizer_path: Option<String>,
    version: Option<VersionSpec>,
    flags: Option<FlagTable>,
    model: Option<ModelFacts>,
    gpu: Option<&'static GpuFacts>,
    datasets: BTreeMap<String, DatasetFacts>,
}

impl StudyInput {
    /// Reads a study and everything around it.
    pub(crate) fn load(path: &Path, overrides: &Overrides) -> Result<Self, CommandError> {
        let mut sources = SourceMap::default();
        Self::load_with(path, overrides, &mut sources).map_err(|error| match error {
            LoadError::Diagnostic(diagnostic) => CommandError::diagnostic(&diagnostic, &sources),
            LoadError::Command(error) => error,
        })
    }

    fn load_with(path: &Path, overrides: &Overrides, sources: &mut SourceMap) -> Result<Self, LoadError> {
        let path_text = path.to_string_lossy().into_owned();
        if !path.exists() {
            return Err(CommandError::usage(format!("there is no study file `{path_text}`"))
                .hint("write one with `servelab init`, or try `servelab run examples/quickstart.yaml`")
                .into());
        }
        let mut doc = study::compose::load(&path_text, &mut |path| read_text(path), sources)?;
        for assignment in &overrides.set {
            study::compose::set(&mut doc, assignment, sources)?;
        }
        let mut study: Study = yaml::from_node(&doc)?;
        apply(&mut study, overrides);
        study::check::check(&study, &doc)?;
        check_injections(&study, &doc)?;
        let folder = overrides.folder.clone().unwrap_or_else(|| folder_of(&path_text));
        let (site, site_doc) = load_site(&study, overrides, &folder, sources, &doc)?;
        let version = match &study.engine.version {
            Some(text) => VersionSpec::parse(text).ok(),
            None => None,
        };
        let model_path = match &study.model.path {
            Some(text) => fill_variables(text, &site).map_err(|message| {
                let span = doc.at(&["model", "path"]).map_or(doc.span, |node| node.span);
                Diagnostic::at(span, message)
            })?,
            None => study.model.id.clone(),
        };
        let flags = flag_table(&study, version.as_ref(), overrides)?;
        let model = model_facts(&study, &model_path)?;
        let gpu = match &site.hardware.gpu {
            Some(name) => model::builtin_gpu(name),
            None => None,
        };
        let (tokenizer, tokenizer_fingerprint) = tokenizer(&study, &doc, &model_path, &folder, &site)?;
        let tokenizer_path = match &tokenizer {
            TokenizerSource::Builtin => None,
            TokenizerSource::Path(path) => Some(path.to_string_lossy().into_owned()),
        };
        let mut input = Self {
            study,
            doc,
            sources: SourceMap::default(),
            site,
            site_doc,
            folder,
            file: path.file_name().map_or_else(|| path.to_owned(), PathBuf::from),
            model_path,
            tokenizer,
            tokenizer_fingerprint,
            tokenizer_path,
            version,
            flags,
            model,
            gpu,
            datasets: BTreeMap::new(),
        };
        input.datasets = input.dataset_facts()?;
        input.sources = sources.clone();
        Ok(input)
    }

    /// The model's architecture, where it is known.
    pub(crate) fn model_facts(&self) -> Option<&ModelFacts> {
        self.model.as_ref()
    }

    /// Expands the study.
    pub(crate) fn plan(&self, winners: &dyn Fn(&str) -> Option<Vec<PointId>>) -> Result<Plan, CommandError> {
        expand::expand(&self.expand_input(winners))
            .map_err(|diagnostic| CommandError::diagnostic(&diagnostic, &self.sources))
    }

    /// Counts what the study expands to.
    pub(crate) fn summary(&self) -> Result<expand::Summary, CommandError> {
        expand::summarise(&self.expand_input(&|_| None))
            .map_err(|diagnostic| CommandError::diagnostic(&diagnostic, &self.sources))
    }

    fn expand_input<'a>(&'a self, winners: &'a dyn Fn(&str) -> Option<Vec<PointId>>) -> ExpandInput<'a> {
        ExpandInput {
            study: &self.study,
            doc: &self.doc,
            site: &self.site,
            version: self.version.as_ref(),
            flags: self.flags.as_ref(),
            model: self.model.as_ref(),
            gpu: self.gpu,
            model_path: &self.model_path,
            tokenizer: &self.tokenizer_fingerprint,
            tokenizer_path: self.tokenizer_path.as_deref(),
            datasets: &self.datasets,
            winners,
        }
    }

    fn dataset_facts(&self) -> Result<BTreeMap<String, DatasetFacts>, LoadError> {
        let mut out = BTreeMap::new();
        for (name, workload) in self.study.workloads.iter() {
            let at = |message: String| Diagnostic::at(self.doc.span_at(&["workloads", name, "dataset"]), message);
            if let Some((key, file)) = workload.dataset.file() {
                let path: Vec<&str> = ["workloads", name, "dataset"].into_iter().chain(key.split('.')).collect();
                let at = |message: String| {
                    let span = self.doc.at(&path).map_or_else(|| self.doc.span_at(&path), |node| node.span);
                    Diagnostic::at(span, message)
                };
                let full = self.folder.join(&file.path);
                if !full.is_file() {
                    return Err(at(format!("there is no dataset file `{}`", full.display()))
                        .with_hint("paths start at the study's folder; `servelab dataset create` makes one")
                        .into());
                }
            }
            let content = workload
                .dataset
                .content_key(|file| servelab_data::file_sha256(file, &self.folder))
                .map_err(|error| at(error.to_string()))?;
            let bounds = workload.dataset.length_bounds();
            // A trace is read to its end here, so that what is wrong in it is known before a server is started.
            let trace = match &workload.dataset {
                DatasetSpec::Trace(trace) => Some(
                    servelab_data::summarise_trace(trace, &self.folder)
                        .map_err(|error| at(format!("cannot {error}")))?,
                ),
                _ => None,
            };
            let cap = |tokens: u32| workload.output.max.map_or(tokens, |max| max.min(tokens));
            out.insert(
                name.to_owned(),
                DatasetFacts {
                    content,
                    max_input_tokens: trace
                        .map(|trace| trace.max_input_tokens)
                        .or(bounds.map(|bounds| bounds.input.max)),
                    max_output_tokens: trace
                        .map(|trace| trace.max_output_tokens)
                        .or(bounds.map(|bounds| bounds.output.max))
                        .map(cap),
                },
            );
        }
        out.insert(
            OFFLINE_WORKLOAD.to_owned(),
            DatasetFacts {
                content: serde_json::json!({"offline": {"generator": GENERATOR_VERSION}}),
                max_input_tokens: None,
                max_output_tokens: None,
            },
        );
        Ok(out)
    }
}

/// Either a problem with a place or a finished error.
enum LoadError {
    Diagnostic(Diagnostic),
    Command(CommandError),
}

impl From<Diagnostic> for LoadError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Diagnostic(diagnostic)
    }
}

impl From<CommandError> for LoadError {
    fn from(error: CommandError) -> Self {
        Self::Command(error)
    }
}

/// Failures to inject must be ones that the simulator knows.
fn check_injections(study: &Study, doc: &Node) -> Result<(), Diagnostic> {
    for (number, text) in study.engine.fail.iter().enumerate() {
        if let Err(error) = text.parse::<servelab_sim::FailSpec>() {
            let place = ["engine", "fail", &number.to_string()];
            let span = doc.at(&place).map_or_else(|| doc.span_at(&["engine", "fail"]), |node| node.span);
            return Err(Diagnostic::at(span, format!("cannot {error}")));
        }
    }
    Ok(())
}

fn apply(study: &mut Study, overrides: &Overrides) {
    if let Some(kind) = overrides.engine {
        let engine = &mut study.engine;
        if kind != engine.kind {
            engine.bin = None;
        }
        if kind != EngineKind::Sim {
            engine.speedup = None;
            engine.fail.clear();
        }
        if kind != EngineKind::External {
            engine.url = None;
        }
        engine.kind = kind;
    }
    if let Some(bin) = &overrides.engine_bin {
        study.engine.bin = Some(bin.clone());
    }
    if let Some(max) = overrides.max_requests {
        let limit = |load: &mut study::LoadSection| {
            let stop = &mut load.stop;
            if let Some(requests) = &mut stop.requests {
                *requests = (*requests).min(max);
            } else {
                *stop = study::Stop { requests: Some(max), ..study::Stop::default() };
            }
            if let Some(warmup) = &mut load.warmup {
                warmup.requests = warmup.requests.min(max);
            }
        };
        limit(&mut study.load);
        study.designs = std::mem::take(&mut study.designs)
            .into_entries()
            .map(|(name, mut design)| {
                if let Some(load) = &mut design.load {
                    limit(load);
                }
                (name, design)
            })
            .collect();
    }
}

fn load_site(
    study: &Study,
    overrides: &Overrides,
    folder: &Path,
    sources: &mut SourceMap,
    doc: &Node,
) -> Result<(Site, Option<Node>), LoadError> {
    let from_command_line = overrides.site.is_some();
    let Some(name) = overrides.site.as_ref().or(study.site.as_ref()) else {
        return Ok((Site::local(), None));
    };
    let is_path = name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml");
    let mut candidates = Vec::new();
    if is_path {
        candidates.push(if from_command_line { PathBuf::from(name) } else { folder.join(name) });
    } else {
        candidates.push(folder.join("sites").join(format!("{name}.yaml")));
        candidates.extend(config_dir().map(|dir| dir.join("sites").join(format!("{name}.yaml"))));
    }
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        if name == "local" {
            return Ok((Site::local(), None));
        }
        let span = doc.at(&["site"]).map(|node| node.span).filter(|_| !from_command_line);
        let places: Vec<String> = candidates.iter().map(|path| format!("`{}`", path.display())).collect();
        return Err(Diagnostic {
            message: format!("there is no site `{name}`"),
            span,
            hint: Some(format!("looked for {}; `servelab init` writes an example", places.join(" and "))),
        }
        .into());
    };
    let site_doc = study::compose::load(&path.to_string_lossy(), &mut |path| read_text(path), sources)?;
    let site: Site = yaml::from_node(&site_doc)?;
    if site.schema != SITE_SCHEMA_VERSION {
        let span = site_doc.at(&["schema"]).map_or(site_doc.span, |node| node.span);
        return Err(Diagnostic::at(span, format!("site format {} is not known to this version", site.schema)).into());
    }
    if let Some(walltime) = &site.walltime
        && servelab_core::units::parse_walltime_s(walltime).is_none()
    {
        let span = site_doc.at(&["walltime"]).map_or(site_doc.span, |node| node.span);
        return Err(Diagnostic::at(span, format!("`{walltime}` is no time limit"))
            .with_hint("write `HH:MM:SS` or `D-HH:MM:SS`")
            .into());
    }
    if let Some(gpu) = &site.hardware.gpu
        && site.hardware.gpu_mem_gb.is_none()
        && model::builtin_gpu(gpu).is_none()
        && study.engine.kind == EngineKind::Sim
    {
        let span = site_doc.at(&["hardware", "gpu"]).map_or(site_doc.span, |node| node.span);
        let known: Vec<&str> = model::builtin_gpus().iter().map(|gpu| gpu.name.as_str()).collect();
        return Err(Diagnostic::at(span, format!("the simulator knows no GPU `{gpu}`"))
            .with_hint(format!("known: {}", known.join(", ")))
            .into());
    }
    Ok((site, Some(site_doc)))
}

/// A site without a study: by name in `./sites` or the user's folder, or by path; this machine when none is named.
pub(crate) fn site_by_name(name: Option<&str>) -> Result<Site, CommandError> {
    let Some(name) = name else { return Ok(Site::local()) };
    let is_path = name.contains('/') || name.ends_with(".yaml") || name.ends_with(".yml");
    let file = format!("{name}.yaml");
    let candidates: Vec<PathBuf> = match is_path {
        true => vec![PathBuf::from(name)],
        false => std::iter::once(PathBuf::from("sites").join(&file))
            .chain(config_dir().map(|dir| dir.join("sites").join(&file)))
            .collect(),
    };
    let Some(path) = candidates.iter().find(|path| path.is_file()) else {
        if name == "local" {
            return Ok(Site::local());
        }
        let places: Vec<String> = candidates.iter().map(|path| format!("`{}`", path.display())).collect();
        return Err(CommandError::usage(format!("there is no site `{name}`"))
            .hint(format!("looked for {}; `servelab init` writes an example", places.join(" and "))));
    };
    let mut sources = SourceMap::default();
    let read = study::compose::load(&path.to_string_lossy(), &mut |path| read_text(path), &mut sources)
        .and_then(|doc| yaml::from_node::<Site>(&doc));
    read.map_err(|diagnostic| CommandError::diagnostic(&diagnostic, &sources))
}

/// Replaces `${site.NAME}` by the site's path of that name.
fn fill_variables(text: &str, site: &Site) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, tail) = rest.split_at(start);
        let end = tail.find('}').ok_or_else(|| "a `${` that is not closed".to_owned())?;
        let name = &tail[2..end];
        let value = name.strip_prefix("site.").and_then(|key| site.paths.get(key)).ok_or_else(|| {
            let known: Vec<String> = site.paths.keys().map(|key| format!("site.{key}")).collect();
            let known = if known.is_empty() {
                "it defines no `paths`".to_owned()
            } else {
                format!("defined: {}", known.join(", "))
            };
            format!("`${{{name}}}` is not defined by site `{}`; {known}", site.site)
        })?;
        out.push_str(before);
        out.push_str(value);
        rest = &tail[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn flag_table(
    study: &Study,
    version: Option<&VersionSpec>,
    overrides: &Overrides,
) -> Result<Option<FlagTable>, LoadError> {
    let Some(dialect) = Dialect::of_engine(study.engine.kind.name()) else { return Ok(None) };
    let table = FlagTable::builtin(dialect, version);
    let Some(path) = &overrides.help_capture else { return Ok(Some(table)) };
    let text = read_text(&path.to_string_lossy())
        .map_err(|reason| CommandError::usage(format!("cannot read `{}`: {reason}", path.display())))?;
    let help = HelpFlags::parse(&text);
    if help.is_empty() {
        return Err(CommandError::usage(format!("`{}` holds no flags", path.display()))
            .hint("capture it with `vllm serve --help=all > help.txt` in the target environment")
            .into());
    }
    Ok(Some(table.with_help(help)))
}

fn model_facts(study: &Study, model_path: &str) -> Result<Option<ModelFacts>, LoadError> {
    let config = Path::new(model_path).join("config.json");
    if config.is_file() {
        let text = read_text(&config.to_string_lossy())
            .map_err(|reason| CommandError::usage(format!("cannot read `{}`: {reason}", config.display())))?;
        let json = serde_json::from_str(&text)
            .map_err(|error| CommandError::usage(format!("`{}` is no JSON: {error}", config.display())))?;
        return Ok(model::from_hf_config(&study.model.id, &json).ok());
    }
    Ok(model::builtin_model(&study.model.id).map(std::borrow::Cow::into_owned))
}

fn tokenizer(
    study: &Study,
    doc: &Node,
    model_path: &str,
    folder: &Path,
    site: &Site,
) -> Result<(TokenizerSource, String), LoadError> {
    let at = |message: String| {
        let span =
            doc.at(&["model", "tokenizer"]).or_else(|| doc.at(&["model", "path"])).map_or(doc.span, |node| node.span);
        Diagnostic::at(span, message)
    };
    let named = match &study.model.tokenizer {
        Some(text) if text != BUILTIN_TOKENIZER => {
            let filled = fill_variables(text, site).map_err(at)?;
            Some(if Path::new(&filled).is_absolute() { PathBuf::from(filled) } else { folder.join(filled) })
        }
        Some(_) => None,
        None => Some(PathBuf::from(model_path)).filter(|path| path.join("tokenizer.json").is_file()),
    };
    let source = named.map_or(TokenizerSource::Builtin, TokenizerSource::Path);
    let fingerprint = Tokenizer::load(&source)
        .map_err(|error| at(format!("cannot {error}")).with_hint("`tokenizer: builtin` counts without any file"))?
        .fingerprint()
        .to_owned();
    Ok((source, fingerprint))
}
