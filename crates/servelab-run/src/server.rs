//! The server of one point: started and waited for, or found at a URL; asked what it runs with; kept clean between cells;
//! ended. Which cells it serves is the run's business.

mod serving;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servelab_core::plan::{PlannedPoint, RolePlan};
use servelab_load::http::{get_text, post_json};
use servelab_load::prometheus::parse;
use servelab_load::{ApiKey, Endpoint};
use servelab_store::{AttemptDir, FailureReport, Root, write_atomic, write_json};

use crate::control::RunControl;
use crate::crew::{EXIT_WAIT, Member, is_crew};
use crate::diagnosis::ServerFailure;
use crate::effective::{EffectiveConfig, compare};
use crate::environment::Machine;
use crate::envlock::{EnvLock, Surroundings};
use crate::error::RunError;
use crate::launch::{Engine, command_line, command_text, environment, served_model};
use crate::nodes::{Allocation, own_address};
use crate::observe::ServerPhase;
use crate::options::LaunchOptions;
use crate::port::{ReservedPort, reserve_port};
use crate::probe::{ProbeOutcome, with_settings};
use crate::process::{ProcessError, ServerCommand, ServerProcess};
use crate::ray;
use crate::ready::{NotReady, Ready, ReadyCheck, wait_ready};
use crate::recorder::Recorder;
use crate::serverlog::{ServerLogFacts, cache_facts};
use crate::span::{Meeting, Spread, environment_line, nodes_of, rank_arguments, remote_command, spread_of};

/// How long nodes of a Ray cluster may take to join.
const RAY_PATIENCE: Duration = Duration::from_secs(600);
/// Starts that found their port taken before another code is reported.
pub(crate) const PORT_TRIES: u32 = 3;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// vLLM looks at the whole Python environment before it answers: 4 s seen on two busy cores, more on a shared file system.
/// An answer given up on would still be worked at during the first cell.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// What every server start of a run shares.
pub(crate) struct Launcher<'a> {
    pub(crate) root: &'a Root,
    pub(crate) job_dir: PathBuf,
    pub(crate) engine: &'a Engine,
    pub(crate) options: &'a LaunchOptions,
    pub(crate) recorder: &'a Recorder<'a>,
    pub(crate) control: &'a RunControl,
    pub(crate) machine: Machine,
    pub(crate) surroundings: Surroundings,
    pub(crate) allocation: Allocation,
    /// Starts so far; numbers log folders and tokens.
    pub(crate) starts: Cell<u32>,
    /// Where the point's files go, when it is not being measured.
    pub(crate) point_folder: Option<PathBuf>,
}

/// A server that answers, before it was asked anything.
struct Reached {
    process: Option<ServerProcess>,
    ports: Vec<ReservedPort>,
    base_url: String,
    log: Option<PathBuf>,
    ready: Ready,
}

/// A server on several nodes.
struct Span {
    spread: Spread,
    n_nodes: usize,
    meeting: Meeting,
}

pub(crate) enum StartOutcome {
    Up(Box<PointServer>),
    Failed(ServerFailure),
    Cancelled,
}

/// A server that serves.
pub(crate) struct PointServer {
    process: Option<ServerProcess>,
    /// The engines behind `process`, when it is a router.
    crew: Vec<Member>,
    /// Held as long as the server has them.
    _ports: Vec<ReservedPort>,
    pub(crate) base_url: String,
    api_key: Option<ApiKey>,
    log: Option<PathBuf>,
    /// Where the first token came from.
    pub(crate) endpoint: Endpoint,
    /// The router's records, where there is one.
    pub(crate) legs: Option<PathBuf>,
    pub(crate) effective: EffectiveConfig,
    /// Settings that a first start told.
    pub(crate) probed: BTreeMap<String, Value>,
    can_reset_cache: bool,
}

impl Launcher<'_> {
    /// Starts the point's server, or reaches the external one, and reads back what it runs with.
    pub(crate) fn start(
        &self,
        point: &PlannedPoint,
        role: Option<&RolePlan>,
        attempts: &[AttemptDir],
    ) -> Result<StartOutcome, RunError> {
        if role.is_some() && is_crew(point) {
            return self.start_crew(point, attempts);
        }
        let model = served_model(point, role);
        let probed = match self.probe(point, role, attempts)? {
            ProbeOutcome::Known(probed) => probed,
            ProbeOutcome::Failed(failure) => return Ok(StartOutcome::Failed(failure)),
            ProbeOutcome::Cancelled => return Ok(StartOutcome::Cancelled),
        };
        let with_probed = role.map(|role| with_settings(point, role, &probed));
        let role = with_probed.as_ref();
        let (engine_url, role) = match (self.engine, role) {
            (Engine::External { url }, _) => (url, None),
            (_, role) => (&String::new(), role),
        };
        let mut port_base = self.options.port_base;
        let mut tries = 1;
        loop {
            let mut ports = Vec::new();
            let (process, base_url) = match role {
                None => (None, normal_base_url(engine_url)),
                Some(role) => {
                    let reserved = reserve_port(port_base).ok_or(RunError::NoPort { base: self.options.port_base })?;
                    let number = reserved.port();
                    ports.push(reserved);
                    match self.spawn(point, role, number, &mut ports, attempts)? {
                        Ok((process, log)) => (Some((process, log)), format!("http://127.0.0.1:{number}")),
                        Err(failure) => return Ok(StartOutcome::Failed(failure)),
                    }
                }
            };
            let (mut process, log) = process.map_or((None, None), |(process, log)| (Some(process), Some(log)));
            let number = ports.first().map(ReservedPort::port);
            match self.wait(point, &model, &base_url, number, process.as_mut(), log.as_deref())? {
                Ok(ready) => {
                    let reached = Reached { process, ports, base_url, log, ready };
                    let up = self.up(point, reached, &probed);
                    return up.map(|up| StartOutcome::Up(Box::new(up)));
                }
                Err(NotReady::Cancelled) => {
                    self.end(process.as_mut(), "cancelled start");
                    return Ok(StartOutcome::Cancelled);
                }
                Err(error) => {
                    let diagnose = || ServerFailure::not_ready(&error, role.is_none(), log.as_deref());
                    // The last lines of a server that ended by itself may still be on their way; what one says while it
                    // is being ended is not why it had to be.
                    let early = (!matches!(error, NotReady::Exited { .. })).then(diagnose);
                    self.end(process.as_mut(), "failed start");
                    let failure = early.unwrap_or_else(diagnose);
                    let Some(number) = number.filter(|_| failure.report.code == "port_in_use" && tries < PORT_TRIES)
                    else {
                        return Ok(StartOutcome::Failed(failure));
                    };
                    self.recorder.notice(format!("port {number} was taken by somebody else; trying the next one"));
                    tries += 1;
                    port_base = number.saturating_add(1);
                }
            }
        }
    }

    pub(crate) fn folder_of(&self, point: &PlannedPoint) -> Result<PathBuf, RunError> {
        Ok(match &self.point_folder {
            Some(folder) => folder.clone(),
            None => self.root.point_dir(&point.id)?,
        })
    }

    pub(crate) fn spawn(
        &self,
        point: &PlannedPoint,
        role: &RolePlan,
        port: u16,
        ports: &mut Vec<ReservedPort>,
        attempts: &[AttemptDir],
    ) -> Result<Result<(ServerProcess, PathBuf), ServerFailure>, RunError> {
        let number = self.starts.get() + 1;
        self.starts.set(number);
        let name = format!("{number}-{}", point.id.short());
        let planned = command_line(self.engine, point, role, port, &self.options.extra_args);
        let mut env = environment(&self.options.env, role);
        let span = self.span(point, role, port, ports)?;
        let mut argv = planned.clone();
        if let Some(span) = &span {
            argv.extend(rank_arguments(span.spread, &planned, span.n_nodes, 0, span.meeting));
            if span.spread == Spread::Ray {
                argv = self.ray_head(span, role, &name, &planned);
                env.extend(ray::access(&env));
            }
            env.push(("VLLM_HOST_IP".to_owned(), span.meeting.address.to_string()));
        }
        argv.splice(0..0, self.options.wrapper.iter().cloned());
        let point_dir = self.folder_of(point)?;
        write_json(&point_dir.join("config.json"), &point.config)?;
        let text = command_text(&argv, &env, &self.options.secrets);
        write_atomic(&point_dir.join("command.txt"), text.as_bytes())?;
        let log = self.job_dir.join("server").join(&name).join(format!("{}-0.log", role.role));
        let job = self.job_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let command = ServerCommand {
            argv,
            env,
            log: log.clone(),
            record: self.job_dir.join("servers").join(format!("{name}.json")),
            token: format!("{job}/{name}"),
        };
        let mut process = match ServerProcess::spawn(&command) {
            Ok(process) => process,
            Err(error) => return Ok(Err(ServerFailure::spawn(&error))),
        };
        for attempt in attempts {
            show_log(&log, &attempt.server_log(&role.role, 0));
        }
        if let Some(span) = &span
            && let Err(error) = self.start_ranks(span, role, &planned, &command, &mut process, attempts)
        {
            return Ok(Err(ServerFailure::spawn(&error)));
        }
        Ok(Ok((process, log)))
    }

    /// Where the ranks of a server that spans nodes meet; `None` for one that does not, and for a rehearsal on fewer nodes.
    fn span(
        &self,
        point: &PlannedPoint,
        role: &RolePlan,
        port: u16,
        ports: &mut Vec<ReservedPort>,
    ) -> Result<Option<Span>, RunError> {
        let n_nodes = nodes_of(role);
        if n_nodes < 2 || self.allocation.nodes.len() < n_nodes || self.options.program.is_none() {
            return Ok(None);
        }
        let reserved = reserve_port(port.saturating_add(1)).ok_or(RunError::NoPort { base: self.options.port_base })?;
        let interface = self.options.fabric_interface.as_deref();
        let other = self.allocation.nodes.get(1).map(String::as_str);
        let meeting = Meeting { address: own_address(interface, other), port: reserved.port() };
        ports.push(reserved);
        // A study for the simulator need not say how, and its ranks meet without Ray.
        let spread = match spread_of(point) {
            Ok(Spread::Ray) | Err(_) if self.engine.is_simulated() => Spread::Mp,
            spread => spread.unwrap_or(Spread::Mp),
        };
        Ok(Some(Span { spread, n_nodes, meeting }))
    }

    /// The supervisor on the first node, with the server's command line at its end.
    fn ray_head(&self, span: &Span, role: &RolePlan, name: &str, planned: &[String]) -> Vec<String> {
        let program = self.options.program.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let mut words = vec![program, "ray-head".to_owned()];
        let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        option("address", span.meeting.address.to_string());
        option("port", span.meeting.port.to_string());
        option("gpus", gpus_on_a_node(role).to_string());
        option("folder", self.ray_folder(name).to_string_lossy().into_owned());
        // Over before the start is given up on as a whole: who is missing says more.
        let patience = (self.options.ready_timeout * 3 / 4).min(RAY_PATIENCE);
        option("patience", patience.as_secs().max(1).to_string());
        for node in self.allocation.nodes.iter().take(span.n_nodes) {
            option("node", node.clone());
        }
        words.push("--".to_owned());
        words.extend(planned.iter().cloned());
        words
    }

    fn ray_folder(&self, name: &str) -> PathBuf {
        let scratch = std::env::var_os("TMPDIR").map(PathBuf::from);
        ray::folder_for(&format!("{}/{name}", self.job_dir.display()), scratch.as_deref())
    }

    /// Starts the ranks on the other nodes.
    fn start_ranks(
        &self,
        span: &Span,
        role: &RolePlan,
        planned: &[String],
        head: &ServerCommand,
        process: &mut ServerProcess,
        attempts: &[AttemptDir],
    ) -> Result<(), ProcessError> {
        let Some(program) = &self.options.program else { return Ok(()) };
        let folder = head.log.parent().unwrap_or(Path::new("."));
        let env = environment_line(&head.env);
        for rank in 1..span.n_nodes {
            let log = folder.join(format!("{}-{rank}.log", role.role));
            // There before the rank is, so that every attempt can show it.
            let _ = fs::OpenOptions::new().create(true).append(true).open(&log);
            for attempt in attempts {
                show_log(&log, &attempt.server_log(&role.role, rank as u32));
            }
            let argv = match span.spread {
                Spread::Ray => {
                    let engine = planned.first().map_or("", String::as_str);
                    ray::worker_command(engine, span.meeting.address, span.meeting.port, gpus_on_a_node(role))
                }
                spread => {
                    let mut argv = planned.to_vec();
                    argv.extend(rank_arguments(spread, planned, span.n_nodes, rank, span.meeting));
                    argv
                }
            };
            let record = head.record.with_extension(format!("rank-{rank}.json"));
            let (log_text, record_text) = (log.to_string_lossy(), record.to_string_lossy());
            let token = format!("{}/{rank}", head.token);
            let first = self.allocation.nodes.first().map_or("localhost", String::as_str);
            let mut options =
                vec![("log", &*log_text), ("record", &*record_text), ("token", token.as_str()), ("toward", first)];
            let head_at = std::net::SocketAddr::new(span.meeting.address, span.meeting.port).to_string();
            let folder_name = head.record.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            let ray_folder = self.ray_folder(&folder_name.unwrap_or_default()).to_string_lossy().into_owned();
            if span.spread == Spread::Ray {
                options.extend([("wait-for", head_at.as_str()), ("scratch", ray_folder.as_str())]);
            }
            options.extend(self.options.fabric_interface.as_deref().map(|interface| ("interface", interface)));
            let Some(command) = remote_command(&self.allocation, rank, program, &options, &argv) else { continue };
            process.add_rank(&command, &folder.join(format!("rank-{rank}.log")), &env)?;
        }
        Ok(())
    }

    fn wait(
        &self,
        point: &PlannedPoint,
        model: &str,
        base_url: &str,
        own_port: Option<u16>,
        process: Option<&mut ServerProcess>,
        log: Option<&Path>,
    ) -> Result<Result<Ready, NotReady>, RunError> {
        let started = Instant::now();
        let at = process.as_ref().map_or_else(|| base_url.to_owned(), |p| format!("{base_url}, process {}", p.pid()));
        self.recorder.server(&point.id, ServerPhase::Starting, 0.0, Some(at))?;
        let check = ReadyCheck {
            base_url,
            api_key: self.options.api_key.as_ref(),
            model,
            timeout: self.options.ready_timeout,
            log,
            needs_health: process.is_some(),
            own_port,
        };
        let mut progress = |step: crate::ready::ReadyStep, line: Option<String>| {
            let detail = line.map_or_else(|| step.describe().to_owned(), |line| format!("{}: {line}", step.describe()));
            self.recorder.server_progress(
                &point.id,
                ServerPhase::Starting,
                started.elapsed().as_secs_f64(),
                Some(detail),
            );
        };
        Ok(match wait_ready(&check, process, &|| self.control.is_stopping(), &mut progress) {
            Ok(ready) => {
                self.recorder.server(&point.id, ServerPhase::Ready, ready.waited.as_secs_f64(), None)?;
                Ok(ready)
            }
            Err(error) => Err(error),
        })
    }

    fn up(
        &self,
        point: &PlannedPoint,
        reached: Reached,
        probed: &BTreeMap<String, Value>,
    ) -> Result<PointServer, RunError> {
        let Reached { process, ports, base_url, log, ready } = reached;
        // Of a server that was there already we know no start.
        let ready_s = process.is_some().then_some(ready.waited.as_secs_f64());
        let (effective, system) = self.read_back(point, &base_url, log.as_deref(), probed, ready_s);
        self.write_effective(point, &effective, system.as_ref())?;
        let api_key = self.options.api_key.clone();
        let crew = Vec::new();
        Ok(PointServer {
            process,
            crew,
            _ports: ports,
            base_url,
            api_key,
            log,
            endpoint: ready.endpoint,
            legs: None,
            effective,
            probed: probed.clone(),
            can_reset_cache: true,
        })
    }

    /// What a server says that it runs with.
    pub(crate) fn read_back(
        &self,
        point: &PlannedPoint,
        base_url: &str,
        log: Option<&Path>,
        probed: &BTreeMap<String, Value>,
        ready_s: Option<f64>,
    ) -> (EffectiveConfig, Option<Value>) {
        let api_key = &self.options.api_key;
        let ask = |path: &str, timeout: Duration| -> Option<Value> {
            let reply = get_text(&format!("{base_url}{path}"), timeout, api_key.as_ref()).ok()?;
            if reply.is_success() { serde_json::from_str(&reply.body).ok() } else { None }
        };
        let version = ask("/version", ASK_TIMEOUT).and_then(|value| Some(value.get("version")?.as_str()?.to_owned()));
        // vLLM's in development mode, SGLang's, llama.cpp's.
        let mut pages = ["/server_info?config_format=json", "/get_server_info", "/props"].into_iter();
        let server_info = pages.find_map(|page| ask(page, INFO_TIMEOUT));
        let version = version.or_else(|| {
            let named = ["version", "build_info"].iter().find_map(|name| server_info.as_ref()?.get(*name));
            Some(named?.as_str()?.to_owned())
        });
        let text = log.and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let facts = ServerLogFacts::parse(&String::from_utf8_lossy(&text));
        let mut asked = point.config.clone();
        if let Some(serve) = asked.get_mut("serve").and_then(Value::as_object_mut) {
            serve.extend(probed.clone());
        }
        let mut effective = compare(&asked, &facts, server_info.as_ref(), version.as_deref());
        effective.engine.ready_s = ready_s;
        let page = get_text(&format!("{base_url}/metrics"), ASK_TIMEOUT, api_key.as_ref());
        let page = page.ok().filter(servelab_load::http::Reply::is_success);
        cache_facts(&mut effective.engine, page.as_ref().map_or("", |reply| &reply.body));
        let system = server_info.as_ref().and_then(|info| info.get("system_env")).cloned();
        (effective, system)
    }

    pub(crate) fn write_effective(
        &self,
        point: &PlannedPoint,
        effective: &EffectiveConfig,
        system: Option<&Value>,
    ) -> Result<(), RunError> {
        let point_dir = self.folder_of(point)?;
        write_json(&point_dir.join("config.json"), &point.config)?;
        write_json(&point_dir.join("effective.json"), effective)?;
        let lock = EnvLock::new(&self.machine, &self.surroundings, effective.engine_version.clone(), system);
        write_json(&point_dir.join("env.lock.json"), &lock)?;
        Ok(())
    }

    /// This program, which is also the router.
    pub(crate) fn router_program(&self) -> Option<&Path> {
        match (&self.options.program, self.engine) {
            (Some(program), _) | (None, Engine::Sim { program }) => Some(program),
            _ => None,
        }
    }

    /// Ends a server; what survives even SIGKILL is reported, because nothing else can be done about it.
    pub(crate) fn end(&self, process: Option<&mut ServerProcess>, why: &str) {
        if let Some(process) = process
            && let Err(error) = process.stop_unless_hurried(self.options.stop_grace, &|| self.control.is_forced())
        {
            self.recorder.notice(format!("failed to {error} ({why})"));
        }
    }

    /// Ends the point's server.
    pub(crate) fn stop(&self, point: &PlannedPoint, mut server: Box<PointServer>) -> Result<(), RunError> {
        let started = Instant::now();
        if server.process.is_some() {
            self.recorder.server(&point.id, ServerPhase::Stopping, 0.0, None)?;
        }
        // The router first: what it still carries ends there, not as a failure of a server.
        self.end(server.process.as_mut(), "end of the point");
        self.end_members(&mut server.crew, "end of the point");
        self.recorder.server(&point.id, ServerPhase::Stopped, started.elapsed().as_secs_f64(), None)?;
        Ok(())
    }
}

/// The most GPUs that one instance of a role uses on a node.
fn gpus_on_a_node(role: &RolePlan) -> u32 {
    let nodes = role.placement.first().map(|place| &place.node_gpus);
    nodes.and_then(|nodes| nodes.values().map(Vec::len).max()).map_or(1, |most| most as u32)
}

/// The log lives with the job, because one server start serves many cells; each attempt shows it too.
pub(crate) fn show_log(log: &Path, shown: &Path) {
    if let Some(folder) = shown.parent() {
        let _ = fs::create_dir_all(folder);
    }
    let _ = fs::remove_file(shown);
    // A file system without links loses only this convenience; the log itself is safe.
    if fs::hard_link(log, shown).is_err() {
        let _ = symlink(log, shown);
    }
}

fn normal_base_url(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    url.strip_suffix("/v1").unwrap_or(url).to_owned()
}

/// A short form of a failure for progress lines.
pub(crate) fn headline(report: &FailureReport) -> String {
    match &report.line {
        Some(line) => format!("{}: {} — {line}", report.code, report.detail),
        None => format!("{}: {}", report.code, report.detail),
    }
}
