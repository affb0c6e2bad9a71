//! What a planned step looks like to the step-time model: rows, contexts, padding to a captured graph.

use super::Scheduler;
use crate::step_time::{Regime, StepShape};

impl Scheduler {
    /// The shape of the rows planned now, before they are counted as computed.
    pub(super) fn shape(&self) -> StepShape {
        let mut shape = StepShape { expert_imbalance: self.config.expert_imbalance, ..StepShape::default() };
        let window = self.window();
        let width = 1 + self.config.speculation.as_ref().map_or(0, |spec| spec.draft_tokens);
        let mut uniform = true;
        for row in &self.rows {
            let Some(seq) = self.seqs.get(row.slot) else { continue };
            shape.n_requests += 1;
            shape.n_tokens += row.n_new;
            shape.draft_tokens += row.drafts;
            if row.n_new <= 1 + row.drafts {
                let context = u64::from(seq.computed + row.n_new);
                shape.decode_context_tokens += context;
                shape.decode_window_tokens += context.min(window);
                uniform &= row.n_new == width || row.n_new == 1 && width == 1;
            } else {
                let (new, middle) = (f64::from(row.n_new), f64::from(seq.computed) + f64::from(row.n_new) / 2.0);
                shape.n_prefills += 1;
                shape.prefill_tokens += row.n_new;
                shape.prefill_pairs += new * middle;
                shape.prefill_window_pairs += new * middle.min(window as f64);
                uniform = false;
            }
        }
        self.pad(&mut shape, uniform.then_some(width));
        shape
    }

    pub(super) fn window(&self) -> u64 {
        self.config.sliding_window.map_or(u64::MAX, |window| u64::from(window.tokens))
    }

    /// Chooses the graph; `uniform`: every row has that many tokens.
    pub(super) fn pad(&self, shape: &mut StepShape, uniform: Option<u32>) {
        let graphs = &self.config.graphs;
        let full = match uniform {
            // Sizes count requests where each has several rows: a graph fits whole requests only.
            Some(width) if graphs.full_decode => graphs
                .padded(shape.n_requests)
                .map(|requests| requests * width)
                .filter(|tokens| *tokens <= graphs.max_tokens.max(self.config.max_num_seqs.min(512) * width)),
            _ => None,
        };
        let (padded, regime) = match (full, graphs.padded(shape.n_tokens)) {
            (Some(tokens), _) => (tokens, Regime::FullGraph),
            (None, Some(tokens)) => (tokens, Regime::Piecewise),
            (None, None) => (shape.n_tokens, Regime::Eager),
        };
        shape.padded_tokens = padded;
        shape.regime = regime;
    }
}
