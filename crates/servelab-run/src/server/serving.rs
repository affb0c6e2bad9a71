//! A server that serves: whether it lives, what its engines say, and a pause until nothing is left inside it.

use super::*;

impl PointServer {
    /// A router (its process, address, log and records) with the engines behind it.
    pub(crate) fn crew(
        router: (ServerProcess, String, PathBuf, PathBuf),
        crew: Vec<Member>,
        ports: Vec<ReservedPort>,
        effective: EffectiveConfig,
        api_key: Option<ApiKey>,
        endpoint: Endpoint,
    ) -> Self {
        let (router, base_url, log, legs) = router;
        Self {
            process: Some(router),
            crew,
            _ports: ports,
            base_url,
            api_key,
            log: Some(log),
            endpoint,
            legs: Some(legs),
            effective,
            probed: BTreeMap::new(),
            can_reset_cache: true,
        }
    }

    /// True when a process of it has ended.
    pub(crate) fn has_exited(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.exit().is_some())
            || self.crew.iter_mut().any(|member| member.process.exit().is_some())
    }

    /// Where metrics are, by the name of their origin: a node, and behind a router the server on it.
    pub(crate) fn metric_pages(&self, host: &str) -> Vec<(String, String)> {
        if self.crew.is_empty() {
            return vec![(host.to_owned(), format!("{}/metrics", self.base_url))];
        }
        let page = |member: &Member| (format!("{host}/{}", member.name), format!("{}/metrics", member.base_url));
        self.crew.iter().map(page).collect()
    }

    /// Addresses of the engines.
    fn engines(&self) -> Vec<&str> {
        if self.crew.is_empty() {
            return vec![&self.base_url];
        }
        self.crew.iter().map(|member| member.base_url.as_str()).collect()
    }

    /// Between cells: the old requests are over and the prefix cache is empty, as far as the engine lets us.
    pub(crate) fn settle(&mut self, control: &RunControl) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let is_over = || control.is_stopping() || Instant::now() >= deadline;
        while !is_over() && self.requests_inside().is_some_and(|n| n > 0.0) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if self.can_reset_cache {
            // vLLM's path, then SGLang's.
            let reset = |url: &str| {
                ["/reset_prefix_cache", "/flush_cache"].iter().any(|path| {
                    let reply = post_json(&format!("{url}{path}"), &json!({}), ASK_TIMEOUT, self.api_key.as_ref());
                    reply.is_ok_and(|reply| reply.is_success())
                })
            };
            let n_reset = self.engines().into_iter().filter(|url| reset(url)).count();
            self.can_reset_cache = n_reset == self.engines().len();
        }
    }

    /// Running and waiting requests by the server's own metrics.
    fn requests_inside(&self) -> Option<f64> {
        let names = [
            "vllm:num_requests_running",
            "vllm:num_requests_waiting",
            "sglang:num_running_reqs",
            "sglang:num_queue_reqs",
            "llamacpp:requests_processing",
            "llamacpp:requests_deferred",
        ];
        let of = |url: &str| -> Option<f64> {
            let reply = get_text(&format!("{url}/metrics"), ASK_TIMEOUT, self.api_key.as_ref()).ok()?;
            let samples = parse(&reply.body).samples;
            Some(samples.iter().filter(|s| names.contains(&s.name.as_str())).map(|s| s.value).sum())
        };
        self.engines().into_iter().map(of).sum()
    }

    /// After a cell: does it still serve? A server that stopped answering gets a moment to exit, so that its last words
    /// can be read.
    pub(crate) fn check(&mut self) -> Option<ServerFailure> {
        let key = self.api_key.as_ref();
        let is_sick = |member: &mut Member| {
            let reply = get_text(&format!("{}/health", member.base_url), ASK_TIMEOUT, key);
            member.process.exit().is_some() || !reply.is_ok_and(|reply| reply.is_success())
        };
        if let Some(member) = self.crew.iter_mut().find_map(|member| is_sick(member).then_some(member)) {
            let deadline = Instant::now() + EXIT_WAIT;
            while member.process.exit().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let name = &member.name;
            return Some(match member.process.exit() {
                Some(exit) => {
                    ServerFailure::died("server_exited", format!("{name} {}", exit.describe()), Some(&member.log))
                }
                None => {
                    let detail = format!("{name} ({}) is no longer healthy", member.base_url);
                    ServerFailure::died("server_unhealthy", detail, Some(&member.log))
                }
            });
        }
        let health = format!("{}/health", self.base_url);
        let is_healthy = match get_text(&health, ASK_TIMEOUT, self.api_key.as_ref()) {
            Ok(reply) => reply.is_success() || (self.process.is_none() && matches!(reply.status, 404 | 405)),
            Err(_) => false,
        };
        if is_healthy && !self.has_exited() {
            return None;
        }
        let log = self.log.as_deref();
        let Some(process) = &mut self.process else {
            let detail = format!("{health} no longer answers");
            return Some(ServerFailure::died("endpoint_unreachable", detail, None));
        };
        let deadline = Instant::now() + EXIT_WAIT;
        while process.exit().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(match process.exit() {
            Some(exit) => ServerFailure::died("server_exited", format!("the server {}", exit.describe()), log),
            None => ServerFailure::died("server_unhealthy", format!("{health} no longer answers"), log),
        })
    }

    pub(crate) fn is_external(&self) -> bool {
        self.process.is_none()
    }
}
