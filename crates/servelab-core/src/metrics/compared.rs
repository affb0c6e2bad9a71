//! Client and server compared per request, and the parts of the time before the send.

use super::quantile::Samples;
use super::timing::{ClientQueue, RequestTimes};
use crate::record::RequestRecord;
use crate::result::ServerTimes;

/// What the server says about its own times, and what the client saw on top, over successes.
#[derive(Debug, Default)]
pub(super) struct ServerTimesSum {
    queue: Samples,
    ttft: Samples,
    itl: Samples,
    e2e: Samples,
    ttft_residual: Samples,
    e2e_residual: Samples,
}

impl ServerTimesSum {
    pub(super) fn add(&mut self, request: &RequestRecord) {
        let times = RequestTimes::of(request);
        let residual = |client_ns: Option<i64>, server_ms: Option<f64>| Some(client_ns? as f64 / 1e6 - server_ms?);
        self.queue.extend(request.server_queue_ms);
        self.ttft.extend(request.server_ttft_ms);
        self.itl.extend(request.server_itl_ms);
        self.e2e.extend(request.server_e2e_ms);
        self.ttft_residual.extend(residual(times.ttft_ns, request.server_ttft_ms));
        self.e2e_residual.extend(residual(times.e2e_ns, request.server_e2e_ms));
    }

    /// `None` when no request came with server times.
    pub(super) fn summary(self) -> Option<ServerTimes> {
        let n = [&self.queue, &self.ttft, &self.itl, &self.e2e].map(Samples::count).into_iter().max();
        n.filter(|n| *n > 0).map(|_| ServerTimes {
            queue_ms: self.queue.quantiles(),
            ttft_ms: self.ttft.quantiles(),
            itl_ms: self.itl.quantiles(),
            e2e_ms: self.e2e.quantiles(),
            ttft_residual_ms: self.ttft_residual.quantiles(),
            e2e_residual_ms: self.e2e_residual.quantiles(),
        })
    }
}

/// Distributions of the parts of `t_send − t_sched` over every request sent in the window.
#[derive(Debug, Default)]
pub(super) struct QueueParts {
    pub(super) slot_wait: Samples,
    pub(super) connect: Samples,
    pub(super) lateness: Samples,
}

impl QueueParts {
    pub(super) fn push(&mut self, queue: ClientQueue) {
        let ms = |ns: i64| ns as f64 / 1e6;
        self.slot_wait.push(ms(queue.slot_wait_ns));
        self.connect.push(ms(queue.connect_ns));
        self.lateness.push(ms(queue.lateness_ns));
    }
}
