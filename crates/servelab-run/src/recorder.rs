//! Writes down what happens: every state change goes to the attempt's `state.json`, to the study's `events.jsonl` and to
//! the observer, in this order, so that nobody sees a state that a crash could take back.

use std::path::PathBuf;

use serde_json::Value;
use servelab_core::event::{Event, EventKind};
use servelab_core::ids::{JobId, PointId};
use servelab_core::state::CellState;
use servelab_store::{AttemptDir, Durability, StoreError, append_line};

use crate::job::unix_ns;
use crate::observe::{Observer, RunEvent, ServerPhase};

pub(crate) struct Recorder<'a> {
    pub(crate) events: PathBuf,
    pub(crate) observer: &'a dyn Observer,
}

impl Recorder<'_> {
    /// A cell enters a state. For a final state call this last: everything else must be on disk by then.
    pub(crate) fn cell(
        &self,
        attempt: &AttemptDir,
        state: CellState,
        code: Option<&str>,
        detail: Option<&str>,
    ) -> Result<(), StoreError> {
        let t_unix_ns = unix_ns();
        attempt.enter(state, t_unix_ns, code, detail)?;
        let (cell, code) = (attempt.cell().clone(), code.map(str::to_owned));
        let kind = EventKind::Cell { cell: cell.clone(), attempt: attempt.attempt(), state, code: code.clone() };
        let durability = if state.is_terminal() { Durability::Synced } else { Durability::Buffered };
        append_line(&self.events, &Event { t_unix_ns, kind }, durability)?;
        let detail = detail.map(str::to_owned);
        self.observer.event(&RunEvent::Cell { cell, attempt: attempt.attempt(), state, code, detail });
        Ok(())
    }

    /// A server's phase changed.
    pub(crate) fn server(
        &self,
        point: &PointId,
        phase: ServerPhase,
        elapsed_s: f64,
        detail: Option<String>,
    ) -> Result<(), StoreError> {
        let kind = EventKind::Point { point: point.clone(), state: phase.name().to_owned(), detail: detail.clone() };
        append_line(&self.events, &Event { t_unix_ns: unix_ns(), kind }, Durability::Buffered)?;
        self.server_progress(point, phase, elapsed_s, detail);
        Ok(())
    }

    /// For displays only.
    pub(crate) fn server_progress(&self, point: &PointId, phase: ServerPhase, elapsed_s: f64, detail: Option<String>) {
        self.observer.event(&RunEvent::Server { point: point.clone(), phase, elapsed_s, detail });
    }

    pub(crate) fn job(&self, job: &JobId, state: &str, detail: Option<Value>) -> Result<(), StoreError> {
        let kind = EventKind::Job { job: job.clone(), state: state.to_owned(), detail };
        append_line(&self.events, &Event { t_unix_ns: unix_ns(), kind }, Durability::Synced)
    }

    pub(crate) fn notice(&self, text: String) {
        self.observer.event(&RunEvent::Notice { text });
    }
}
