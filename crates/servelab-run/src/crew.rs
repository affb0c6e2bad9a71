//! The servers of a point that has several: replicas, or prefill and decode servers, each with its own ports, GPUs and
//! environment, and the router in front of them. They start together, are waited for together, and end together. What a
//! single server is told stands in `launch`; what happens to its cells is the run's business.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use servelab_core::plan::{PlannedPoint, RolePlan};
use servelab_core::state::CellState;
use servelab_load::Endpoint;
use servelab_load::http::get_text;
use servelab_store::{AttemptDir, write_atomic, write_json};

use crate::diagnosis::ServerFailure;
use crate::effective::EffectiveConfig;
use crate::error::RunError;
use crate::launch::{Engine, command_line, command_text, environment, served_model};
use crate::observe::ServerPhase;
use crate::port::{ReservedPort, reserve_block, reserve_port};
use crate::process::{ServerCommand, ServerProcess};
use crate::proof::{Crewed, prove};
use crate::ready::{NotReady, ReadyCheck, ReadyStep, wait_ready};
use crate::router::Handover;
use crate::server::{Launcher, PORT_TRIES, PointServer, StartOutcome, show_log};

/// Name of the role that is no engine.
pub(crate) const ROUTER: &str = "router";

/// The router's records of one start.
const LEGS: &str = "legs.jsonl";

/// From its start until it has asked every server how it is.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(60);

/// One instance of a role and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat<'a> {
    pub(crate) role: &'a RolePlan,
    pub(crate) instance: u32,
    /// Its node among those of the point.
    pub(crate) node: u32,
}

impl Seat<'_> {
    fn name(&self) -> String {
        format!("{}-{}", self.role.role, self.instance)
    }

    /// GPUs on its node.
    fn gpus(&self) -> Vec<u32> {
        let place = self.role.placement.iter().find(|place| place.instance == self.instance);
        place.and_then(|place| place.node_gpus.get(&self.node)).cloned().unwrap_or_default()
    }

    fn n_gpus(&self) -> u32 {
        (self.role.gpus / self.role.count.max(1)).max(1)
    }
}

/// A point with more than one server.
pub(crate) fn is_crew(point: &PlannedPoint) -> bool {
    point.roles.iter().filter(|role| role.role != ROUTER).map(|role| role.count).sum::<u32>() > 1
}

/// Prefill and decode are apart.
pub(crate) fn is_split(point: &PlannedPoint) -> bool {
    point.roles.iter().any(|role| role.role == "prefill")
}

/// Every engine of a point.
pub(crate) fn seats(point: &PlannedPoint) -> Vec<Seat<'_>> {
    let roles = point.roles.iter().filter(|role| role.role != ROUTER);
    let of_role =
        |role| (0..role_count(role)).map(move |instance| Seat { role, instance, node: node_of(role, instance) });
    roles.flat_map(of_role).collect()
}

fn role_count(role: &RolePlan) -> u32 {
    role.count
}

fn node_of(role: &RolePlan, instance: u32) -> u32 {
    let place = role.placement.iter().find(|place| place.instance == instance);
    place.and_then(|place| place.node_gpus.keys().next()).copied().unwrap_or(0)
}

/// One engine of a crew that was started.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) process: ServerProcess,
    pub(crate) base_url: String,
    pub(crate) log: PathBuf,
    port: u16,
    /// From its start to its first token.
    ready_s: f64,
    /// Where its first token came from.
    endpoint: Endpoint,
}

/// How KV is handed over, by the connector that the servers are told to use.
fn handover(point: &PlannedPoint) -> Handover {
    let argv = point.roles.iter().find(|role| role.role == "prefill").map_or(&[][..], |role| &role.argv);
    let at = argv.iter().position(|word| word == "--kv-transfer-config");
    let config =
        at.and_then(|at| argv.get(at + 1)).and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let connector = config.as_ref().and_then(|config| config.get("kv_connector")?.as_str());
    connector.map_or(Handover::Params, Handover::of_connector)
}

/// The router's policy, as the point's `deploy.router` says.
fn policy(point: &PlannedPoint) -> &str {
    point.config.pointer("/deploy/router").and_then(serde_json::Value::as_str).unwrap_or("round-robin")
}

/// GPUs by the numbers that this process may use: inside a job, 0 is the first of those that the job got.
fn visible(gpus: &[u32], inherited: Option<&str>) -> String {
    let own: Vec<&str> = inherited.map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default();
    let name = |gpu: &u32| own.get(*gpu as usize).map_or_else(|| gpu.to_string(), |name| (*name).to_owned());
    gpus.iter().map(name).collect::<Vec<_>>().join(",")
}

/// Disjoint cores for servers without GPUs, in vLLM's words (`0-3|4-7`: one group a rank); `None` when there are fewer
/// cores than ranks, where sharing all of them is better.
fn cores(all: &[usize], n_ranks: usize, first: usize, ranks: usize) -> Option<String> {
    let each = all.len().checked_div(n_ranks).filter(|each| *each > 0)?;
    let group = |rank: usize| {
        let cores = all.get((first + rank) * each..(first + rank + 1) * each)?;
        Some(cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
    };
    (0..ranks).map(group).collect::<Option<Vec<_>>>().map(|groups| groups.join("|"))
}

fn own_cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

enum Tried {
    Up(Box<PointServer>),
    Cancelled,
    /// And the port after which another try may succeed.
    Failed(ServerFailure, u16),
}

impl Launcher<'_> {
    /// Starts all servers of the point and the router.
    pub(crate) fn start_crew(&self, point: &PlannedPoint, attempts: &[AttemptDir]) -> Result<StartOutcome, RunError> {
        let mut port_base = self.options.port_base;
        let mut tries = 1;
        loop {
            match self.try_crew(point, attempts, port_base)? {
                Tried::Up(server) => return Ok(StartOutcome::Up(server)),
                Tried::Cancelled => return Ok(StartOutcome::Cancelled),
                Tried::Failed(failure, next) if failure.report.code == "port_in_use" && tries < PORT_TRIES => {
                    self.recorder.notice(format!("{}; trying the next ports", failure.report.detail));
                    tries += 1;
                    port_base = next;
                }
                Tried::Failed(failure, _) => return Ok(StartOutcome::Failed(failure)),
            }
        }
    }

    fn try_crew(&self, point: &PlannedPoint, attempts: &[AttemptDir], port_base: u16) -> Result<Tried, RunError> {
        let started = Instant::now();
        let number = self.starts.get() + 1;
        self.starts.set(number);
        let start_name = format!("{number}-{}", point.id.short());
        let folder = self.job_dir.join("server").join(&start_name);
        let mut crew = Crew { launcher: self, point, attempts, start_name, folder, ports: Vec::new(), next: port_base };
        let mut texts = Vec::new();
        let mut members: Vec<Member> = Vec::new();
        for seat in seats(point) {
            match crew.start(&seat, &mut texts)? {
                Ok(member) => members.push(member),
                Err(failure) => {
                    self.end_members(&mut members, "failed start");
                    return Ok(Tried::Failed(failure, crew.next));
                }
            }
        }
        let point_dir = self.folder_of(point)?;
        write_json(&point_dir.join("config.json"), &point.config)?;
        write_atomic(&point_dir.join("command.txt"), texts.concat().as_bytes())?;
        let detail = members.iter().map(|m| format!("{} at {}", m.name, m.base_url)).collect::<Vec<_>>().join(", ");
        self.recorder.server(&point.id, ServerPhase::Starting, 0.0, Some(detail))?;
        let give_up = |members: &mut Vec<Member>, error: &NotReady, log: &Path, next: u16| {
            // What a server says while it is being ended is not why it had to be; what one said that ended may still be
            // on its way.
            let diagnose = || ServerFailure::not_ready(error, false, Some(log));
            let early = (!matches!(error, NotReady::Exited { .. })).then(diagnose);
            self.end_members(members, "failed start");
            Tried::Failed(early.unwrap_or_else(diagnose), next)
        };
        if let Err((error, log)) = self.wait_members(point, &mut members, started) {
            if error == NotReady::Cancelled {
                self.end_members(&mut members, "cancelled start");
                return Ok(Tried::Cancelled);
            }
            return Ok(give_up(&mut members, &error, &log, crew.next));
        }
        let (mut router, router_url, router_log, port) = match crew.start_router(&members, &mut texts)? {
            Ok(router) => router,
            Err(failure) => {
                self.end_members(&mut members, "failed start");
                return Ok(Tried::Failed(failure, crew.next));
            }
        };
        write_atomic(&point_dir.join("command.txt"), texts.concat().as_bytes())?;
        if let Err(error) = self.wait_router(&router_url, &mut router, port) {
            self.end(Some(&mut router), "failed start");
            if error == NotReady::Cancelled {
                self.end_members(&mut members, "cancelled start");
                return Ok(Tried::Cancelled);
            }
            return Ok(give_up(&mut members, &error, &router_log, crew.next));
        }
        let effective = self.crew_effective(point, &members)?;
        if is_split(point)
            && let Some(failure) = self.disproved(point, &router_url, &members, started)?
        {
            self.end(Some(&mut router), "no transfer");
            self.end_members(&mut members, "no transfer");
            return Ok(Tried::Failed(failure, crew.next));
        }
        self.recorder.server(&point.id, ServerPhase::Ready, started.elapsed().as_secs_f64(), None)?;
        let endpoint =
            members.iter().find(|member| member.role != "prefill").map_or(Endpoint::Completions, |m| m.endpoint);
        let legs = crew.folder.join(LEGS);
        let ports = crew.ports;
        Ok(Tried::Up(Box::new(PointServer::crew(
            (router, router_url, router_log, legs),
            members,
            ports,
            effective,
            self.options.api_key.clone(),
            endpoint,
        ))))
    }

    /// The engines generate already; the router only has to reach them.
    fn wait_router(&self, url: &str, process: &mut ServerProcess, port: u16) -> Result<(), NotReady> {
        let deadline = Instant::now() + ROUTER_TIMEOUT;
        loop {
            if self.control.is_stopping() {
                return Err(NotReady::Cancelled);
            }
            if let Some(exit) = process.exit() {
                return Err(NotReady::Exited { exit });
            }
            let last_answer = match get_text(&format!("{url}/health"), ROUTER_TIMEOUT, None) {
                Ok(_) if process.is_port_foreign(port) => return Err(NotReady::PortTaken { port }),
                Ok(reply) if reply.is_success() => return Ok(()),
                Ok(reply) => reply.body,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(NotReady::TimedOut { step: ReadyStep::Health, timeout: ROUTER_TIMEOUT, last_answer });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Why KV does not go from prefill to decode, if it does not; the attempt at a proof is kept either way.
    fn disproved(
        &self,
        point: &PlannedPoint,
        router: &str,
        members: &[Member],
        started: Instant,
    ) -> Result<Option<ServerFailure>, RunError> {
        let detail = Some("proving that KV is transferred".to_owned());
        self.recorder.server_progress(&point.id, ServerPhase::Starting, started.elapsed().as_secs_f64(), detail);
        let of = |is_prefill: bool| {
            let members = members.iter().filter(|member| (member.role == "prefill") == is_prefill);
            members.map(|member| member.base_url.as_str()).collect()
        };
        let model = served_model(point, members_role(point));
        let proof = prove(&Crewed {
            router,
            prefill: of(true),
            decode: of(false),
            model: &model,
            api_key: self.options.api_key.as_ref(),
        });
        let path = self.folder_of(point)?.join("transfer.json");
        write_json(&path, &proof)?;
        Ok(proof.why.filter(|_| !proof.is_proved).map(|why| {
            let advice = "set kv_load_failure_policy=fail, check the side channel and the network \
                          (`servelab network-test`), and read the decode server's log";
            let mut failure = ServerFailure::new("no_kv_transfer", why, Some(advice));
            failure.state = CellState::Invalid;
            failure.report.source = Some(path.display().to_string());
            failure
        }))
    }

    /// Waits for all at once; the first that fails ends the waiting for the others.
    fn wait_members(
        &self,
        point: &PlannedPoint,
        members: &mut [Member],
        started: Instant,
    ) -> Result<(), (NotReady, PathBuf)> {
        let (control, options, recorder) = (self.control, self.options, self.recorder);
        let has_failed = Arc::new(AtomicBool::new(false));
        let outcomes: Vec<Option<(NotReady, PathBuf)>> = thread::scope(|scope| {
            let waiting: Vec<_> = members
                .iter_mut()
                .map(|member| {
                    let has_failed = Arc::clone(&has_failed);
                    let model = served_model(point, point.roles.iter().find(|role| role.role == member.role));
                    scope.spawn(move || {
                        let check = ReadyCheck {
                            base_url: &member.base_url,
                            api_key: options.api_key.as_ref(),
                            model: &model,
                            timeout: options.ready_timeout.saturating_sub(started.elapsed()),
                            log: Some(&member.log),
                            needs_health: true,
                            own_port: Some(member.port),
                        };
                        let mut progress = |step: ReadyStep, line: Option<String>| {
                            let line = line.map_or_else(String::new, |line| format!(": {line}"));
                            let detail = format!("{}, {}{line}", member.name, step.describe());
                            let elapsed_s = started.elapsed().as_secs_f64();
                            recorder.server_progress(&point.id, ServerPhase::Starting, elapsed_s, Some(detail));
                        };
                        let is_over = || control.is_stopping() || has_failed.load(SeqCst);
                        let outcome = wait_ready(&check, Some(&mut member.process), &is_over, &mut progress);
                        if let Ok(ready) = &outcome {
                            member.ready_s = ready.waited.as_secs_f64();
                            member.endpoint = ready.endpoint;
                        }
                        outcome.err().map(|error| {
                            has_failed.store(true, SeqCst);
                            (error, member.log.clone())
                        })
                    })
                })
                .collect();
            waiting.into_iter().map(|thread| thread.join().unwrap_or(None)).collect()
        });
        // Those that were told to stop waiting know nothing.
        let failed = outcomes.into_iter().flatten();
        match failed.min_by_key(|(error, _)| *error == NotReady::Cancelled) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// What each server runs with; the first decode server speaks for the point, and every server's differences count.
    fn crew_effective(&self, point: &PlannedPoint, members: &[Member]) -> Result<EffectiveConfig, RunError> {
        let point_dir = self.folder_of(point)?;
        let mut all = Vec::new();
        for member in members {
            let (effective, system) =
                self.read_back(point, &member.base_url, Some(&member.log), &BTreeMap::new(), Some(member.ready_s));
            write_json(&point_dir.join(format!("effective-{}.json", member.name)), &effective)?;
            all.push((member, effective, system));
        }
        let spokesman = all.iter().position(|(member, ..)| member.role != "prefill").unwrap_or(0);
        let spoken = all.get(spokesman).map(|(_, effective, system)| (effective.clone(), system.clone()));
        let (mut effective, system) = spoken.unwrap_or_default();
        let mut seen: BTreeSet<String> =
            effective.differences.iter().map(|difference| difference.key.clone()).collect();
        for (member, other, _) in &all {
            effective.debug_logging |= other.debug_logging;
            for difference in &other.differences {
                if seen.insert(difference.key.clone()) {
                    let key = format!("{} ({})", difference.key, member.name);
                    effective.differences.push(crate::effective::Difference { key, ..difference.clone() });
                }
            }
        }
        self.write_effective(point, &effective, system.as_ref())?;
        Ok(effective)
    }

    /// Ends servers side by side: each may take its whole grace period.
    pub(crate) fn end_members(&self, members: &mut Vec<Member>, why: &str) {
        let (grace, control, recorder) = (self.options.stop_grace, self.control, self.recorder);
        thread::scope(|scope| {
            for member in members.iter_mut() {
                scope.spawn(move || {
                    if let Err(error) = member.process.stop_unless_hurried(grace, &|| control.is_forced()) {
                        recorder.notice(format!("failed to {error} ({}, {why})", member.name));
                    }
                });
            }
        });
        members.clear();
    }
}

/// The role whose command line names the model.
fn members_role(point: &PlannedPoint) -> Option<&RolePlan> {
    point.roles.iter().find(|role| role.role != ROUTER)
}

/// A crew that is being started.
struct Crew<'a> {
    launcher: &'a Launcher<'a>,
    point: &'a PlannedPoint,
    attempts: &'a [AttemptDir],
    start_name: String,
    folder: PathBuf,
    ports: Vec<ReservedPort>,
    /// Where the search for the next port begins.
    next: u16,
}

impl Crew<'_> {
    fn port(&mut self) -> Result<u16, RunError> {
        let base = self.launcher.options.port_base;
        let reserved = reserve_port(self.next).ok_or(RunError::NoPort { base })?;
        let port = reserved.port();
        self.next = port.saturating_add(1);
        self.ports.push(reserved);
        Ok(port)
    }

    /// Consecutive ports, of which the first is given back.
    fn block(&mut self, n: u16) -> Result<u16, RunError> {
        let base = self.launcher.options.port_base;
        let block = reserve_block(self.next, n).ok_or(RunError::NoPort { base })?;
        let first = block.first().map_or(self.next, ReservedPort::port);
        self.next = first.saturating_add(n);
        self.ports.extend(block);
        Ok(first)
    }

    fn command(&self, name: &str, argv: Vec<String>, env: Vec<(String, String)>) -> ServerCommand {
        let job = self.launcher.job_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        ServerCommand {
            argv,
            env,
            log: self.folder.join(format!("{name}.log")),
            record: self.launcher.job_dir.join("servers").join(format!("{}-{name}.json", self.start_name)),
            token: format!("{job}/{}/{name}", self.start_name),
        }
    }

    fn start(&mut self, seat: &Seat<'_>, texts: &mut Vec<String>) -> Result<Result<Member, ServerFailure>, RunError> {
        let launcher = self.launcher;
        let port = self.port()?;
        let argv = command_line(launcher.engine, self.point, seat.role, port, &launcher.options.extra_args);
        let mut env = environment(&launcher.options.env, seat.role);
        self.pin(seat, &mut env);
        if is_split(self.point) {
            // vLLM counts from there: one port for each rank.
            let first = self.block(u16::try_from(seat.n_gpus()).unwrap_or(64).clamp(1, 64))?;
            let own = [
                ("VLLM_NIXL_SIDE_CHANNEL_HOST", "127.0.0.1".to_owned()),
                ("VLLM_NIXL_SIDE_CHANNEL_PORT", first.to_string()),
            ];
            own.into_iter().for_each(|(name, value)| set_unless_given(&mut env, name, value));
        }
        texts.push(command_text(&argv, &env, &launcher.options.secrets));
        let name = seat.name();
        let command = self.command(&name, argv, env);
        let process = match ServerProcess::spawn(&command) {
            Ok(process) => process,
            Err(error) => return Ok(Err(ServerFailure::spawn(&error))),
        };
        for attempt in self.attempts {
            show_log(&command.log, &attempt.server_log(&seat.role.role, seat.instance));
        }
        let base_url = format!("http://127.0.0.1:{port}");
        Ok(Ok(Member {
            name,
            role: seat.role.role.clone(),
            process,
            base_url,
            log: command.log,
            port,
            ready_s: 0.0,
            endpoint: Endpoint::Completions,
        }))
    }

    /// Each server gets its own GPUs, or its own cores where there are none.
    fn pin(&self, seat: &Seat<'_>, env: &mut Vec<(String, String)>) {
        let gpus = seat.gpus();
        if gpus.is_empty() {
            return;
        }
        let has_gpus = !self.launcher.machine.gpus.is_empty();
        if has_gpus || self.launcher.engine.is_simulated() {
            let inherited = std::env::var("CUDA_VISIBLE_DEVICES").ok().filter(|list| !list.trim().is_empty());
            return set_unless_given(env, "CUDA_VISIBLE_DEVICES", visible(&gpus, inherited.as_deref()));
        }
        let all = seats(self.point);
        let ranks = |seats: &[Seat<'_>]| seats.iter().map(|seat| seat.n_gpus() as usize).sum::<usize>();
        let at = all.iter().position(|other| other.name() == seat.name()).unwrap_or(0);
        let first = ranks(all.get(..at).unwrap_or_default());
        if matches!(self.launcher.engine, Engine::Process { .. })
            && let Some(cores) = cores(&own_cores(), ranks(&all), first, seat.n_gpus() as usize)
        {
            set_unless_given(env, "VLLM_CPU_OMP_THREADS_BIND", cores);
        }
    }

    #[expect(clippy::type_complexity, reason = "process, address, log and port of one start, used at one place")]
    fn start_router(
        &mut self,
        members: &[Member],
        texts: &mut Vec<String>,
    ) -> Result<Result<(ServerProcess, String, PathBuf, u16), ServerFailure>, RunError> {
        let port = self.port()?;
        let Some(program) = self.launcher.router_program() else {
            let detail = "this program's own file is not known, so no router can be started";
            return Ok(Err(ServerFailure::new("engine_not_found", detail, None)));
        };
        let legs = self.folder.join(LEGS);
        let mut argv: Vec<String> = vec![program.to_string_lossy().into_owned(), "router".to_owned()];
        let mut option = |name: &str, value: String| argv.extend([name.to_owned(), value]);
        option("--listen", format!("127.0.0.1:{port}"));
        option("--policy", policy(self.point).to_owned());
        option("--legs", legs.to_string_lossy().into_owned());
        if is_split(self.point) {
            option("--handover", handover(self.point).name().to_owned());
        }
        for member in members {
            option(if member.role == "prefill" { "--prefill" } else { "--server" }, member.base_url.clone());
        }
        texts.push(command_text(&argv, &[], &self.launcher.options.secrets));
        let command = self.command("router-0", argv, Vec::new());
        let process = match ServerProcess::spawn(&command) {
            Ok(process) => process,
            Err(error) => return Ok(Err(ServerFailure::spawn(&error))),
        };
        for attempt in self.attempts {
            show_log(&command.log, &attempt.server_log(ROUTER, 0));
        }
        Ok(Ok((process, format!("http://127.0.0.1:{port}"), command.log, port)))
    }
}

fn set_unless_given(env: &mut Vec<(String, String)>, name: &str, value: String) {
    if !env.iter().any(|(known, _)| known == name) {
        env.push((name.to_owned(), value));
    }
}

/// How long a server that is being left may take to say so.
pub(crate) const EXIT_WAIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
