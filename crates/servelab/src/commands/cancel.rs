//! `servelab cancel`: cancels the jobs of a study, by the ids that were written down when they were submitted and by no
//! name or pattern. Finished cells stay; the next `submit` takes up the rest.

use std::process::ExitCode;

use clap::Args;
use servelab_run::jobs::{JobEvent, JobState, judge, note, refresh, survey};
use servelab_run::scheduler::SchedulerId;
use servelab_store::Root;

use super::{select, stored, submit};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Arguments of `servelab cancel`.
#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    study: StudyArgs,
}

pub(crate) fn cancel(args: &CancelArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let scheduler = submit::scheduler(&input)?;
    if !args.study.root.exists() {
        ui.data(&format!("Study {}: there is no job to cancel.", input.study.study));
        return Ok(ExitCode::SUCCESS);
    }
    let root = Root::open(&args.study.root)?;
    let study = &input.study.study;
    let jobs = survey(&root, study, submit::now())?;
    // A submission whose answer was lost gets its id here, if the scheduler has it.
    let refreshed = refresh(&root, &jobs, &*scheduler)?;
    let jobs = survey(&root, study, submit::now())?;
    let wanted = match stored::plan_with_history(&root, study)? {
        Some(plan) if !(args.study.only.is_empty() && args.study.design.is_empty()) => {
            Some(select::cells(&plan, &args.study)?)
        }
        _ => None,
    };
    let mut ids: Vec<SchedulerId> = Vec::new();
    let mut unknown = 0;
    for job in &jobs {
        if wanted.as_ref().is_some_and(|cells| !job.intent.cells.iter().any(|cell| cells.contains(cell))) {
            continue;
        }
        let state = judge(job).state;
        match (state.is_active(), job.scheduler_id()) {
            (true, Some(id)) => {
                note(&root, job.id(), JobEvent::CancelAsked)?;
                ids.push(id.clone());
            }
            (true, None) => unknown += 1,
            (false, _) if state == JobState::Prepared => note(&root, job.id(), JobEvent::CancelAsked)?,
            (false, _) => {}
        }
    }
    if !ids.is_empty() {
        scheduler.cancel(&ids).map_err(|error| CommandError::failed(format!("cannot cancel: {error}")))?;
    }
    match ids.len() {
        0 => ui.data(&format!("Study {study}: there is no job to cancel.")),
        n => {
            let list: Vec<&str> = ids.iter().map(SchedulerId::as_str).collect();
            ui.data(&format!("Study {study}: asked {} to cancel {n} jobs: {}.", scheduler.name(), list.join(", ")));
            ui.say("Finished cells stay done; `servelab submit` takes up the rest.");
        }
    }
    if unknown > 0 {
        let why = refreshed.trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        return Err(CommandError::failed(format!(
            "{unknown} submissions are without an answer{why}: whether the scheduler has them is not known yet"
        ))
        .hint("run the same command again in a minute"));
    }
    Ok(ExitCode::SUCCESS)
}
