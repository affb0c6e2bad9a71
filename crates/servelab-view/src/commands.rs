//! The commands that a reader types next, ready to paste: quoted where a shell needs it.

use servelab_core::plan::{Plan, PlanStatus, PlannedPoint};
use servelab_core::site::Scheduler;
use servelab_core::study::Study;

use crate::plan::factors::baseline;

/// What the suggested commands depend on.
#[derive(Debug, Clone, Copy)]
pub struct HowToRun<'a> {
    /// The study file as the user named it.
    pub study_file: &'a str,
    /// What starts jobs at the site.
    pub scheduler: Scheduler,
    /// The site as the user named it.
    pub site: &'a str,
    /// `--root` as the user gave it; `None` for the default.
    pub root: Option<&'a str>,
}

impl Default for HowToRun<'_> {
    fn default() -> Self {
        Self { study_file: "STUDY", scheduler: Scheduler::Local, site: "local", root: None }
    }
}

impl HowToRun<'_> {
    /// `servelab SUBCOMMAND STUDY EXTRA…`.
    pub fn command(&self, subcommand: &str, extra: &[&str]) -> String {
        let mut words = vec!["servelab".to_owned(), subcommand.to_owned(), shell_word(self.study_file)];
        if let Some(root) = self.root {
            words.extend(["--root".to_owned(), shell_word(root)]);
        }
        words.extend(extra.iter().map(|word| shell_word(word)));
        words.join(" ")
    }

    /// The command that measures: here, or through the site's scheduler.
    pub fn measure(&self, extra: &[&str]) -> String {
        self.command(if self.scheduler == Scheduler::Local { "run" } else { "submit" }, extra)
    }

    /// What to know before [`Self::measure`] at a site with a scheduler.
    pub fn note(&self) -> Option<String> {
        match self.scheduler {
            Scheduler::Local => None,
            Scheduler::Slurm | Scheduler::Pbs => Some(format!(
                "It submits jobs at {}; `{} --engine sim` rehearses the study on this machine.",
                self.site,
                self.command("run", &[])
            )),
        }
    }

    /// The scheduler's own listing of the user's jobs.
    pub fn queue(&self) -> Option<&'static str> {
        match self.scheduler {
            Scheduler::Local => None,
            Scheduler::Slurm => Some("squeue -u $USER"),
            Scheduler::Pbs => Some("qstat -u $USER"),
        }
    }
}

/// The point to try first: the baseline where it can run, else the first that can.
pub fn first_point<'a>(plan: &'a Plan, study: &Study) -> Option<&'a PlannedPoint> {
    let can_run = |point: &&PlannedPoint| {
        point.status == PlanStatus::Planned
            && plan.cells.iter().any(|cell| cell.point == point.id && cell.status == PlanStatus::Planned)
    };
    baseline(plan, study).filter(can_run).or_else(|| plan.points.iter().find(can_run))
}

/// How a person names a point on the command line: its first label, else its short id.
pub fn handle(point: &PlannedPoint) -> &str {
    point.labels.first().map_or_else(|| point.id.short(), String::as_str)
}

/// A word as a POSIX shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,+-@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let here = HowToRun { study_file: "my study.yaml", ..HowToRun::default() };
        assert_eq!(here.measure(&["--only", "1A"]), "servelab run 'my study.yaml' --only 1A");
        let there = HowToRun { study_file: "a.yaml", scheduler: Scheduler::Pbs, site: "vista", root: Some("/r") };
        assert_eq!(there.measure(&[]), "servelab submit a.yaml --root /r");
        assert!(here.note().is_none() && there.note().is_some_and(|note| note.contains("vista")));
        assert_eq!(
            (shell_word(""), shell_word("it's"), shell_word("a=1,b=2")),
            ("''".into(), "'it'\\''s'".into(), "a=1,b=2".into())
        );
    }
}
