//! From a planned role to a command: program, arguments, address, environment, and the same as text that a person can
//! paste into a shell. Secrets travel through the environment and never into text. Starting it is `process`' business.

use std::path::{Path, PathBuf};

use servelab_core::plan::{PlannedPoint, RolePlan};

use crate::crew::{ROUTER, is_crew, seats};
use crate::span::{nodes_of, spread_of};

/// Which engine serves the points of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// The simulator, started as `PROGRAM sim …`.
    Sim {
        /// The servelab binary.
        program: PathBuf,
    },
    /// A real engine, started with the planned command line.
    Process {
        /// Replaces the planned program (`vllm`), if given.
        program: Option<PathBuf>,
    },
    /// A server that is already there; nothing is started or stopped.
    External {
        /// `http://host:port`.
        url: String,
    },
}

impl Engine {
    /// Results come from a simulator.
    pub fn is_simulated(&self) -> bool {
        matches!(self, Self::Sim { .. })
    }
}

/// A point that cannot run on this machine, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotHere(pub String);

/// The first role that has to be started here, where so many nodes are (the only one, unless a router stands in front);
/// `None` for an external server.
pub fn role_to_start<'a>(
    engine: &Engine,
    point: &'a PlannedPoint,
    n_nodes_here: usize,
) -> Result<Option<&'a RolePlan>, NotHere> {
    if matches!(engine, Engine::External { .. }) {
        return Ok(None);
    }
    let Some(role) = point.roles.first() else {
        return Err(NotHere("the plan names no server to start".to_owned()));
    };
    if point.roles.iter().any(|role| role.role != ROUTER && role.argv.len() < 2) {
        return Err(NotHere("the plan has no command line for this engine".to_owned()));
    }
    if is_crew(point) {
        return crew_fits(engine, point).map(|()| Some(role));
    }
    let nodes = nodes_of(role);
    // The simulator rehearses on one machine what does not fit.
    if nodes > 1 && !(engine.is_simulated() && n_nodes_here < nodes) {
        if n_nodes_here < nodes {
            return Err(NotHere(format!(
                "it spans {nodes} nodes, and there are {n_nodes_here} here: submit it, or rehearse it with --engine sim"
            )));
        }
        if let Err(reason) = spread_of(point)
            && !engine.is_simulated()
        {
            return Err(NotHere(reason));
        }
    }
    Ok(Some(role))
}

/// Several servers behind a router: each on one node, and all on this one, unless they are only rehearsed.
fn crew_fits(engine: &Engine, point: &PlannedPoint) -> Result<(), NotHere> {
    if engine.is_simulated() {
        return Ok(());
    }
    if let Some(role) = point.roles.iter().find(|role| role.role != ROUTER && nodes_of(role) > 1) {
        return Err(NotHere(format!(
            "a `{}` server spans {} nodes; behind a router this version starts servers of one node only",
            role.role,
            nodes_of(role)
        )));
    }
    if let Some(seat) = seats(point).iter().find(|seat| seat.node > 0) {
        return Err(NotHere(format!(
            "its servers are spread over nodes (a `{}` server is on the second); this version starts them on one node, \
             or rehearses them with --engine sim",
            seat.role.role
        )));
    }
    Ok(())
}

/// The program that [`command_line`] would start; `None` for an external server.
pub fn program<'a>(engine: &'a Engine, role: &'a RolePlan) -> Option<&'a Path> {
    match engine {
        Engine::Sim { program } | Engine::Process { program: Some(program) } => Some(program),
        Engine::Process { program: None } => role.argv.first().map(Path::new),
        Engine::External { .. } => None,
    }
}

/// Finds a program as the shell would.
pub fn find_program(program: &Path, search_path: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if program.components().count() > 1 {
        return is_executable(program).then(|| program.to_owned());
    }
    std::env::split_paths(search_path?).map(|folder| folder.join(program)).find(|path| is_executable(path))
}

/// The whole command line of a server that listens on `127.0.0.1:port`.
pub fn command_line(
    engine: &Engine,
    point: &PlannedPoint,
    role: &RolePlan,
    port: u16,
    extra_args: &[String],
) -> Vec<String> {
    let mut argv = role.argv.clone();
    if let (Some(first), Some(program)) = (argv.first_mut(), program(engine, role)) {
        *first = program.to_string_lossy().into_owned();
    }
    argv.extend(extra_args.iter().cloned());
    match engine {
        Engine::Sim { .. } => {
            argv.extend(simulator_flags(point, &argv));
            argv.extend(["--listen".to_owned(), format!("127.0.0.1:{port}")]);
        }
        _ => argv.extend(["--host", "127.0.0.1", "--port"].map(str::to_owned).into_iter().chain([port.to_string()])),
    }
    argv
}

/// What the point's engine section says about the simulation itself, unless the command line has it already.
fn simulator_flags(point: &PlannedPoint, argv: &[String]) -> Vec<String> {
    let setting = |name: &str| point.config.get("engine").and_then(|engine| engine.get(name));
    let is_absent = |flag: &str| !argv.iter().any(|arg| arg == flag || arg.starts_with(&format!("{flag}=")));
    let mut flags = Vec::new();
    if let Some(speedup) = setting("speedup").filter(|value| value.is_number() && is_absent("--speedup")) {
        flags.extend(["--speedup".to_owned(), speedup.to_string()]);
    }
    if is_absent("--fail") {
        for spec in setting("fail").and_then(|fail| fail.as_array()).into_iter().flatten() {
            flags.extend(spec.as_str().map(|spec| ["--fail".to_owned(), spec.to_owned()]).into_iter().flatten());
        }
    }
    flags
}

/// The environment that a server gets on top of the inherited one: later sources win.
pub fn environment(site: &[(String, String)], role: &RolePlan) -> Vec<(String, String)> {
    // Development mode adds the endpoints that show the effective configuration and reset the prefix cache.
    let ours = [("VLLM_SERVER_DEV_MODE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1")];
    let mut env: Vec<(String, String)> = ours.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for (name, value) in site.iter().map(|(n, v)| (n, v)).chain(&role.env) {
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
    }
    env
}

/// The command as text for a shell. Environment variables that hold secrets are left out, values of secret flags hidden.
pub fn command_text(argv: &[String], env: &[(String, String)], secrets: &[String]) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in env.iter().filter(|(name, _)| !is_secret(name, secrets)) {
        words.push(format!("{name}={}", quote(value)));
    }
    let mut hide = false;
    for arg in argv {
        if arg.starts_with('-') {
            let (flag, value) = arg.split_once('=').map_or((arg.as_str(), None), |(flag, value)| (flag, Some(value)));
            let is_hidden = SECRET_FLAGS.contains(&flag.replace('_', "-").as_str());
            hide = is_hidden && value.is_none();
            words.push(if is_hidden && value.is_some() { format!("{flag}='(hidden)'") } else { quote(arg) });
        } else {
            words.push(if hide { "'(hidden)'".to_owned() } else { quote(arg) });
        }
    }
    words.join(" ") + "\n"
}

const SECRET_FLAGS: [&str; 2] = ["--api-key", "--hf-token"];

fn is_secret(name: &str, secrets: &[String]) -> bool {
    let looks_secret = ["TOKEN", "SECRET", "PASSWORD", "API_KEY", "CREDENTIAL"];
    let upper = name.to_ascii_uppercase();
    secrets.iter().any(|secret| secret == name) || looks_secret.iter().any(|word| upper.contains(word))
}

/// One word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// The name that requests must carry: `--served-model-name`, else the model's own name.
pub fn served_model(point: &PlannedPoint, role: Option<&RolePlan>) -> String {
    let argv = role.map_or(&[][..], |role| &role.argv);
    let value_of = |flag: &str| {
        let at = argv.iter().position(|arg| arg == flag || arg.starts_with(&format!("{flag}=")))?;
        let arg = argv.get(at)?;
        arg.split_once('=').map(|(_, value)| value.to_owned()).or_else(|| argv.get(at + 1).cloned())
    };
    let planned = |key: &str| {
        let model = point.config.get("model")?;
        Some(model.get(key)?.as_str()?.to_owned())
    };
    let positional =
        || argv.get(2).filter(|arg| argv.get(1).is_some_and(|a| a == "serve") && !arg.starts_with('-')).cloned();
    value_of("--served-model-name")
        .or_else(|| value_of("--alias"))
        .or_else(|| planned("served_name"))
        .or_else(positional)
        .or_else(|| value_of("--model"))
        .or_else(|| planned("id"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;
    use servelab_core::plan::Placement;

    use super::*;
    use crate::fixtures::point;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn role(argv: &str) -> RolePlan {
        RolePlan {
            role: "serve".to_owned(),
            count: 1,
            gpus: 1,
            argv: words(argv),
            env: BTreeMap::from([("HF_HUB_OFFLINE".to_owned(), "1".to_owned())]),
            placement: vec![Placement { instance: 0, node_gpus: BTreeMap::from([(0, vec![0])]) }],
        }
    }

    #[test]
    fn command_lines() {
        let sim = Engine::Sim { program: "/opt/servelab".into() };
        let vllm = Engine::Process { program: Some("/venv/bin/vllm".into()) };
        let planned = Engine::Process { program: None };
        for (engine, argv, expected) in [
            (
                &sim,
                "servelab sim --model m --gpu H200",
                "/opt/servelab sim --model m --gpu H200 --x --listen 127.0.0.1:9",
            ),
            (&vllm, "vllm serve m --dtype auto", "/venv/bin/vllm serve m --dtype auto --x --host 127.0.0.1 --port 9"),
            (&planned, "vllm serve m", "vllm serve m --x --host 127.0.0.1 --port 9"),
        ] {
            assert_eq!(command_line(engine, &point("p", &[]), &role(argv), 9, &["--x".to_owned()]), words(expected));
        }
        let mut fast = point("p", &[]);
        fast.config = json!({"engine": {"kind": "sim", "speedup": 8, "fail": ["oom@3", "hang"]}});
        let argv = command_line(&sim, &fast, &role("servelab sim"), 9, &[]);
        assert_eq!(argv, words("/opt/servelab sim --speedup 8 --fail oom@3 --fail hang --listen 127.0.0.1:9"));
    }

    #[test]
    fn environments_are_layered() {
        let site = [("HF_HUB_OFFLINE", "0"), ("DO_NOT_TRACK", "0")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let env: BTreeMap<String, String> = environment(&site, &role("vllm serve m")).into_iter().collect();
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("HF_HUB_OFFLINE"), Some("1"), "the role wins");
        assert_eq!(get("DO_NOT_TRACK"), Some("0"), "the site beats our defaults");
        assert_eq!(get("VLLM_SERVER_DEV_MODE"), Some("1"));
    }

    #[test]
    fn text_has_no_secrets() {
        let argv = words("vllm serve m --api-key sk-1 sk-2 --port 1 --hf-token=hf-3");
        let env = [("HF_TOKEN", "hf-4"), ("MINE", "sk-5"), ("A", "b c")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let text = command_text(&argv, &env, &["MINE".to_owned()]);
        assert_eq!(text, "A='b c' vllm serve m --api-key '(hidden)' '(hidden)' --port 1 --hf-token='(hidden)'\n");
    }

    #[test]
    fn served_names() {
        let mut point = point("p", &[]);
        point.config = json!({"model": {"id": "org/model"}});
        for (argv, expected) in [
            ("vllm serve /m --served-model-name tiny --port 1", "tiny"),
            ("vllm serve /m --served-model-name=tiny", "tiny"),
            ("vllm serve /m --dtype auto", "/m"),
            ("servelab sim --model big", "big"),
            ("other", "org/model"),
        ] {
            assert_eq!(served_model(&point, Some(&role(argv))), expected, "{argv}");
        }
        assert_eq!(served_model(&point, None), "org/model");
    }

    #[test]
    fn what_runs_here() {
        let vllm = Engine::Process { program: None };
        let sim = Engine::Sim { program: "x".into() };
        let mut point = point("p", &[]);
        let reason = |engine: &Engine, point: &PlannedPoint| role_to_start(engine, point, 1).err().map(|error| error.0);
        point.roles = vec![role("vllm serve m")];
        assert_eq!(reason(&vllm, &point), None);
        point.roles[0].placement[0].node_gpus.insert(1, vec![0]);
        assert!(reason(&vllm, &point).unwrap().contains("2 nodes"));
        assert_eq!(reason(&sim, &point), None);
        point.roles[0].count = 3;
        assert_eq!(reason(&sim, &point), None, "rehearsed on one node");
        assert!(reason(&vllm, &point).unwrap().contains("spans 2 nodes"));
        point.roles[0].placement[0].node_gpus.remove(&0);
        assert!(reason(&vllm, &point).unwrap().contains("spread over nodes"));
        point.roles[0].placement[0].node_gpus = BTreeMap::from([(0, vec![0])]);
        assert_eq!(reason(&vllm, &point), None);
        point.roles.clear();
        assert!(reason(&sim, &point).is_some());
        assert_eq!(reason(&Engine::External { url: "http://x".to_owned() }, &point), None);
    }

    #[test]
    fn programs_are_found_as_by_a_shell() {
        let path = Some(std::ffi::OsStr::new("/nowhere:/bin"));
        assert_eq!(find_program(Path::new("sh"), path), Some("/bin/sh".into()));
        assert_eq!(find_program(Path::new("/bin/sh"), None), Some("/bin/sh".into()));
        assert_eq!(find_program(Path::new("no-such-engine"), path), None);
        assert_eq!(find_program(Path::new("/etc/passwd"), path), None);
    }

    proptest! {
        #[test]
        fn a_shell_reads_quoted_words_back(word in "[^\\x00]{0,24}") {
            prop_assume!(!word.contains('\r'));
            let script = format!("printf %s {}", quote(&word));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(output.stdout, word.as_bytes());
        }
    }
}
