//! `servelab doctor`: is this machine, and the site behind it, fit for a run? Looks, and changes nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use servelab_core::plan::PlannedPoint;
use servelab_core::study::EngineKind;
use servelab_run::doctor::{Finding, Health, Subject, examine};

use super::run::DEFAULT_PORT_BASE;
use crate::error::CommandError;
use crate::study_input::{Overrides, StudyInput, site_by_name};
use crate::ui::Ui;

/// Arguments of `servelab doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A study: its engine and model are looked at too
    #[arg(value_name = "STUDY")]
    study: Option<PathBuf>,
    /// The site: a name or a path
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Folder where results are to live
    #[arg(long, env = "SERVELAB_ROOT", default_value = "servelab-out", value_name = "DIR")]
    root: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Document {
    schema: u32,
    site: String,
    host: String,
    ok: bool,
    findings: Vec<Finding>,
}

pub(crate) fn doctor(args: &DoctorArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = match &args.study {
        Some(path) => {
            let overrides = Overrides { site: args.site.clone(), ..Overrides::default() };
            Some(StudyInput::load(path, &overrides)?)
        }
        None => None,
    };
    let site = match &input {
        Some(input) => input.site.clone(),
        None => site_by_name(args.site.as_deref())?,
    };
    let engine = input.as_ref().and_then(engine_program);
    let plan = input.as_ref().filter(|input| input.study.engine.kind == EngineKind::Vllm);
    let plan = plan.map(|input| input.plan(&|_| None)).transpose()?;
    let servers = plan.as_ref().map(|plan| servers(&plan.points)).unwrap_or_default();
    let model = input.as_ref().filter(|input| input.study.model.path.is_some());
    let findings = examine(&Subject {
        site: &site,
        root: &args.root,
        engine: engine.as_deref(),
        model: model.map(|input| Path::new(input.model_path.as_str())),
        trusts_model_code: input.as_ref().is_some_and(|input| input.study.model.trust_remote_code),
        port_base: site.port_base.unwrap_or(DEFAULT_PORT_BASE),
        servers: &servers,
    });
    let is_fit = findings.iter().all(|finding| finding.health != Health::Bad);
    let host = servelab_store::hostname();
    if args.json {
        let document = Document { schema: 1, site: site.site, host, ok: is_fit, findings };
        ui.data(&serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        let mut text = format!("{host}, site {}\n", site.site);
        for finding in &findings {
            text.push_str(&format!("  {:<8} {}: {}\n", finding.health.name(), finding.check, finding.detail));
            if let Some(advice) = &finding.advice {
                text.push_str(&format!("           {advice}\n"));
            }
        }
        ui.data(&text);
    }
    Ok(if is_fit { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Command lines of the servers of these points.
pub(crate) fn servers(points: &[PlannedPoint]) -> Vec<&[String]> {
    let roles = points.iter().flat_map(|point| &point.roles);
    roles.filter(|role| role.role != "router").map(|role| role.argv.as_slice()).collect()
}

/// What would be started; the simulator is this program.
pub(crate) fn engine_program(input: &StudyInput) -> Option<PathBuf> {
    let engine = &input.study.engine;
    match engine.kind {
        EngineKind::Vllm => Some(PathBuf::from(engine.bin.as_deref().unwrap_or("vllm"))),
        EngineKind::LlamaCpp => Some(PathBuf::from(engine.bin.as_deref().unwrap_or("llama-server"))),
        EngineKind::Sglang => Some(PathBuf::from(engine.bin.as_deref().unwrap_or("python3"))),
        EngineKind::Sim | EngineKind::External => None,
    }
}
