//! What `servelab status` shows: cells per state, jobs, and failures with the quoted line and the advice.

use servelab_core::plan::Plan;
use servelab_store::ResultRow;

use crate::commands::HowToRun;
use crate::report::{problems, states_table};
use crate::text::document::Document;
use crate::text::number::{count, percent};
use crate::text::table::{Table, left};

/// One job as the status shows it.
#[derive(Debug, Clone, Copy)]
pub struct JobLine<'a> {
    /// Our id.
    pub uuid: &'a str,
    /// The scheduler's id, where there is one.
    pub scheduler_id: Option<&'a str>,
    /// Its state, in words.
    pub state: &'a str,
    /// Why it is in that state.
    pub reason: Option<&'a str>,
}

/// Everything that a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct StatusInput<'a> {
    /// The plan that the rows belong to.
    pub plan: &'a Plan,
    /// One row per cell of the plan.
    pub rows: &'a [ResultRow],
    /// Jobs, newest last.
    pub jobs: &'a [JobLine<'a>],
    /// What the jobs of a scheduler cost, in words.
    pub node_hours: Option<&'a str>,
    /// For the command at the end.
    pub how: HowToRun<'a>,
    /// Columns of the terminal; `None` wraps nothing.
    pub width: Option<usize>,
}

/// The status for a terminal.
pub fn status_text(input: &StatusInput<'_>) -> String {
    let mut out = Document::default();
    out.heading(1, format!("Study {}", input.plan.study));
    let all = input.rows.len() as u64;
    let over = input.rows.iter().filter(|row| row.state.is_terminal()).count() as u64;
    let share = if all > 0 { format!(" ({})", percent(over as f64 / all as f64)) } else { String::new() };
    out.paragraph(format!("{} of {} cells are over{share}.", count(over), count(all)));
    out.table(states_table(input.rows));
    if !input.jobs.is_empty() {
        out.heading(2, "Jobs");
        let mut table = Table::new([left("Job"), left("Scheduler id"), left("State"), left("Reason")]);
        for job in input.jobs {
            table.row([job.uuid, job.scheduler_id.unwrap_or_default(), job.state, job.reason.unwrap_or_default()]);
        }
        out.table(table.without_empty_columns());
    }
    if let Some(node_hours) = input.node_hours {
        out.paragraph(node_hours.to_owned());
    }
    problems::failures_section(&mut out, input.rows);
    problems::infeasible_section(&mut out, input.rows);
    out.heading(2, "Next");
    out.code("bash", next_command(input));
    out.to_text(input.width)
}

fn next_command(input: &StatusInput<'_>) -> String {
    let failed = input.rows.iter().any(|row| problems::has_failed(row.state));
    let unfinished =
        input.rows.iter().any(|row| !row.state.is_terminal() && row.state != servelab_core::state::CellState::Blocked);
    match (unfinished, failed) {
        (true, _) => format!("{}   # go on", input.how.measure(&[])),
        (false, true) => format!("{}   # try failed cells again", input.how.measure(&["--retry", "failed"])),
        (false, false) => input.how.command("report", &[]),
    }
}
