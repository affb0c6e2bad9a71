//! `servelab plan --check-engine`: what the installed engine makes of the plan's flag sets, in words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use servelab_core::flags::Dialect;
use servelab_core::plan::Plan;
use servelab_core::study::EngineKind;
use servelab_run::enginecheck::{CheckRequest, EngineCheck, SetStatus, check_engine};
use servelab_run::launch::find_program;

use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// One import on a cold shared file system takes minutes.
const LIMIT: Duration = Duration::from_secs(900);

/// Asks the engine that `run` would start.
pub(crate) fn check(input: &StudyInput, plan: &Plan, ui: Ui) -> Result<EngineCheck, CommandError> {
    let (dialect, usual) = match input.study.engine.kind {
        EngineKind::Vllm => (Dialect::Vllm, "vllm"),
        EngineKind::Sglang => (Dialect::Sglang, "python3"),
        EngineKind::LlamaCpp | EngineKind::Sim | EngineKind::External => {
            return Err(CommandError::usage(
                "`--check-engine` asks an installed vLLM or SGLang; this study has another engine",
            )
            .hint("the simulator checks its flags at its start; of an external server only its answers are known"));
        }
    };
    let env: Vec<(String, String)> = input.site.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let program = PathBuf::from(input.study.engine.bin.as_deref().unwrap_or(usual));
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
    let Some(program) = find_program(&program, path.or_else(|| std::env::var_os("PATH")).as_deref()) else {
        return Err(CommandError::failed(format!("the engine's program `{}` was not found", program.display()))
            .hint("name it with `--engine-bin PATH`, or run this where the servers will run"));
    };
    // A relative path would be looked for elsewhere: the engine is asked from `/`, so that no file here is imported.
    let program = std::path::absolute(&program).unwrap_or(program);
    ui.say(&format!("asking {}; its import takes a while", program.display()));
    let request = CheckRequest { program: &program, dialect, env: &env, limit: LIMIT };
    check_engine(plan, &request).map_err(|error| CommandError::failed(format!("cannot {error}")))
}

/// One line per flag set that is not simply fine, and a count of the others.
pub(crate) fn text(check: &EngineCheck) -> String {
    let n = |status: SetStatus| check.sets.iter().filter(|set| set.status == status).count();
    let name = check.program.file_name().map_or(check.program.as_path(), Path::new);
    let mut out = format!(
        "Asked {} {}: of {} distinct flag sets it takes {}, changes values in {}, refuses {}, and could only parse {} ({:.1} s).\n",
        name.display(),
        check.engine_version,
        check.sets.len(),
        n(SetStatus::Ok),
        n(SetStatus::Changed),
        n(SetStatus::Refused),
        n(SetStatus::Parsed),
        check.seconds
    );
    for set in check.sets.iter().filter(|set| set.status != SetStatus::Ok) {
        let word = match set.status {
            SetStatus::Ok => "ok",
            SetStatus::Changed => "changed",
            SetStatus::Refused => "REFUSED",
            SetStatus::Parsed => "parsed only",
        };
        out.push_str(&format!("  {word}: {} ({})\n", some_labels(&set.labels), set.role));
        for difference in &set.differences {
            let (asked, gets) = (&difference.requested, &difference.effective);
            out.push_str(&format!("    {}: asked for {asked}, would be {gets}\n", difference.key));
        }
        if let Some(detail) = &set.detail {
            out.push_str(&format!("    {detail}\n"));
        }
    }
    out
}

fn some_labels(labels: &[String]) -> String {
    let shown: Vec<&str> = labels.iter().take(4).map(String::as_str).collect();
    let more = labels.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
