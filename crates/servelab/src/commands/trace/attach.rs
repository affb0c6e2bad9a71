//! `servelab trace metrics --attach STUDY --point LABEL`: keeps a trace report where `servelab report` finds it.

use std::path::PathBuf;

use clap::Args;
use servelab_core::plan::PlannedPoint;
use servelab_core::source::did_you_mean;
use servelab_core::trace::TraceReport;
use servelab_store::{Root, write_atomic};

use crate::commands::traces_of_points::{PROFILE_DIR, STORED_REPORT};
use crate::error::CommandError;
use crate::study_input::{Overrides, StudyInput};
use crate::ui::Ui;

/// Where a report is kept.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Keep the numbers with a point of this study, so that its report shows them
    #[arg(long, value_name = "STUDY", requires = "point")]
    attach: Option<PathBuf>,
    /// The point: a label, an id or its beginning
    #[arg(long, value_name = "LABEL|ID", requires = "attach")]
    point: Option<String>,
    /// Folder where results live
    #[arg(long, env = "SERVELAB_ROOT", default_value = "servelab-out", value_name = "DIR")]
    root: PathBuf,
}

impl AttachArgs {
    pub(crate) fn attach(&self, report: &TraceReport, ui: Ui) -> Result<(), CommandError> {
        let (Some(study), Some(wanted)) = (&self.attach, &self.point) else { return Ok(()) };
        let input = StudyInput::load(study, &Overrides::default())?;
        let root = Root::open(&self.root)?;
        let plan = root.load_plan(&input.study.study)?;
        let is_meant = |point: &&PlannedPoint| {
            point.labels.contains(wanted) || (wanted.len() >= 6 && point.id.as_str().starts_with(wanted.as_str()))
        };
        let mut found = plan.points.iter().filter(is_meant);
        let (Some(point), None) = (found.next(), found.next()) else {
            let labels: Vec<&str> =
                plan.points.iter().flat_map(|point| point.labels.iter().map(String::as_str)).collect();
            let hint = did_you_mean(wanted, labels.iter().copied())
                .map_or_else(|| format!("its labels: {}", labels.join(", ")), |near| format!("did you mean `{near}`?"));
            return Err(
                CommandError::usage(format!("`--point {wanted}` names no single point of the study")).hint(hint)
            );
        };
        let folder = root.point_dir(&point.id)?.join(PROFILE_DIR);
        std::fs::create_dir_all(&folder)
            .map_err(|error| CommandError::failed(format!("cannot make `{}`: {error}", folder.display())))?;
        let path = folder.join(STORED_REPORT);
        write_atomic(&path, super::json(report)?.as_bytes())?;
        ui.say(&format!("wrote {}; `servelab report` shows it", path.display()));
        Ok(())
    }
}
