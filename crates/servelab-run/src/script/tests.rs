use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use servelab_core::ids::{JobId, PointId};
use servelab_core::site::{Scheduler, Site};
use servelab_core::source::SourceMap;

use super::*;

const UUID: &str = "6f1c0000-1111-4222-8333-444455556666";

fn site(yaml: &str) -> Site {
    let text = format!("schema: 1\nsite: park\n{yaml}");
    let mut sources = SourceMap::default();
    let source = sources.add("site.yaml", text.as_str());
    servelab_core::yaml::from_node(&servelab_core::yaml::parse(source, &text).unwrap()).unwrap()
}

fn script(site: &Site, label: &str) -> Result<String, ScriptError> {
    let command: Vec<String> =
        ["/opt/bin/servelab", "run", "/home/me/my study.yaml", "--root", "/scratch/out", "--job", UUID]
            .map(str::to_owned)
            .into();
    let name = file_name(label);
    job_script(&JobScript {
        job: &JobId::new(UUID),
        study: "batch",
        label,
        name: &name,
        point: &PointId::new("0123456789abcdef"),
        block: 1,
        n_cells: 3,
        nodes: 2,
        gpus_per_node: 4,
        walltime_s: 5400,
        site,
        logs: &PathBuf::from("/scratch/out/logs"),
        intent: &PathBuf::from(format!("/scratch/out/jobs/{UUID}/intent.json")),
        command: &command,
        avoid: &[],
        glibc: Glibc::parse("2.28"),
    })
}

/// bash reads it, without running it.
#[track_caller]
fn is_bash(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sh");
    std::fs::write(&path, text).unwrap();
    let out = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
}

/// The whole text, as a file that a person can read beside. `SERVELAB_UPDATE=1` writes it anew.
#[track_caller]
fn is_as_expected(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/script/expected").join(name);
    if std::env::var_os("SERVELAB_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs", path.display());
}

const SLURM: &str = "scheduler: slurm
account: m0000_g
partition: gpu
qos: regular
constraint: gpu&hbm80g
exclude: [n1, \"n[4-5]\"]
gpus: {per_node: 8, ask: gres, kind: h200}
cpus_per_node: 64
modules: [python, cudatoolkit]
conda: vllm
fabric: {interface: hsn0}
env: {NCCL_DEBUG: WARN, GREETING: \"it's $HOME\"}
secrets: [HF_TOKEN]
scratch: /local
prologue: nvidia-smi -L
epilogue: [echo over]
extra_directives: [\"--licenses=scratch\"]
";

#[test]
fn a_slurm_script() {
    let text = script(&site(SLURM), "seqs 4/8").unwrap();
    is_bash(&text);
    is_as_expected("run_example_head.sbatch", &text);
}

#[test]
fn a_pbs_script() {
    let text = script(
        &site(
            "scheduler: pbs\nqueue: rt_HF\naccount: grp\ncpus_per_node: 100\nmem_gb_per_node: 1000\n\
             gpus: {per_node: 8, ask: select}\nvenv: /groups/vllm\nsecrets: HF_TOKEN\n",
        ),
        "1A",
    )
    .unwrap();
    is_bash(&text);
    is_as_expected("run_example_head.pbs", &text);
    assert!(!text.lines().any(|line| line.starts_with("#PBS") && line.contains(" #")), "PBS refuses such lines");
}

#[test]
fn shared_nodes_and_containers() {
    let shared = site("scheduler: slurm\nexclusive: false\ngpus: {per_node: 8, ask: gpus_per_node}\n");
    let text = script(&shared, "a").unwrap();
    assert!(text.contains("--gpus-per-node=4\n") && !text.contains("--exclusive") && !text.contains("--mem"), "{text}");
    for (runtime, words) in [
        ("apptainer", "apptainer exec --nv --bind /data:/data --bind /scratch/out"),
        ("pyxis", "srun --overlap --nodes=1 --ntasks=1 --container-image='/img/v llm.sqsh'"),
    ] {
        let yaml = format!(
            "scheduler: slurm\ncontainer: {{runtime: {runtime}, image: \"/img/v llm.sqsh\", binds: [\"/data:/data\"]}}\n"
        );
        let text = script(&site(&yaml), "a").unwrap();
        is_bash(&text);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    for (yaml, says) in [
        ("scheduler: slurm\npartition: \"a b\"\n", "`partition`"),
        ("scheduler: slurm\npartition: \"$(id)\"\n", "`partition`"),
        ("scheduler: slurm\nqueue: q\n", "means nothing to SLURM"),
        ("scheduler: slurm\ngpus: {ask: select}\n", "means nothing to SLURM"),
        ("scheduler: pbs\npartition: q\n", "means nothing to PBS"),
        ("scheduler: pbs\nqos: q\n", "means nothing to PBS"),
        ("scheduler: slurm\nconstraint: \"a\\\"b\"\n", "`constraint`"),
        ("scheduler: slurm\nenv: {A: \"x\\ny\"}\n", "control character"),
        ("scheduler: slurm\nextra_directives: [\"--x\\n#SBATCH --y\"]\n", "control character"),
        ("scheduler: slurm\nmodules: [\"a\\tb\"]\n", "control character"),
        ("scheduler: slurm\nenv: {\"A B\": x}\n", "no name of an environment variable"),
        ("scheduler: slurm\nsecrets: [\"A;B\"]\n", "no name of an environment variable"),
    ] {
        let error = script(&site(yaml), "a").unwrap_err().to_string();
        assert!(error.contains(says), "{yaml}: {error}");
    }
}

#[test]
fn all_scripts_in_one() {
    let job = JobId::new(UUID);
    let launch = Launch { script: "run_1A_head.pbs", job: &job, name: "1A", enforce_eager: false, array: None };
    let text = launch_all("s", Scheduler::Pbs, &[launch]);
    is_bash(&text);
    assert!(text.contains("EXP_NAME=1A,ENFORCE_EAGER=no' run_1A_head.pbs"), "{text}");
    let text = launch_all("s", Scheduler::Slurm, &[launch]);
    is_bash(&text);
    assert!(text.ends_with("\nsbatch run_1A_head.pbs\n"), "{text}");
}

/// A node whose C library is too old tells it in the job's record; any other node goes on to the program.
#[test]
fn an_old_c_library_is_told() {
    for (needed, is_old) in [("99.0", true), ("2.0", false)] {
        let folder = tempfile::tempdir().unwrap();
        let command = vec!["touch".to_owned(), folder.path().join("ran").to_string_lossy().into_owned()];
        let park = site(&format!("scheduler: local\nscratch: {}\n", folder.path().display()));
        let text = job_script(&JobScript {
            job: &JobId::new(UUID),
            study: "s",
            label: "a",
            name: "a",
            point: &PointId::new("p"),
            block: 0,
            n_cells: 1,
            nodes: 1,
            gpus_per_node: 1,
            walltime_s: 600,
            site: &park,
            logs: folder.path(),
            intent: &folder.path().join("intent.json"),
            command: &command,
            avoid: &[],
            glibc: Glibc::parse(needed),
        })
        .unwrap();
        is_bash(&text);
        let out = Command::new("bash").arg("-c").arg(&text).output().unwrap();
        let says = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(i32::from(is_old)), "{says}\n{text}");
        assert_eq!(folder.path().join("ran").exists(), !is_old, "{text}");
        let exit = std::fs::read_to_string(folder.path().join("exit.json")).ok();
        assert_eq!(exit.is_some(), is_old);
        if let Some(exit) = exit {
            let exit: serde_json::Value = serde_json::from_str(&exit).unwrap();
            let error = exit.pointer("/detail/error").and_then(serde_json::Value::as_str).unwrap();
            assert!(error.contains("has glibc") && error.contains("99.0") && says.contains(error), "{error} {says}");
            assert!(exit.get("t_unix_ns").unwrap().as_i64().is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Values reach the program as they were written, whatever they hold.
    #[test]
    fn values_survive_the_shell(value in "[ -~é]{0,40}", label in "[ -~é]{1,30}") {
        let mut park = site("scheduler: slurm\n");
        park.env.insert("VALUE".to_owned(), value.clone());
        let text = script(&park, &label).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("export VALUE=")).collect();
        let out = Command::new("bash").arg("-c").arg(format!("{}; printf %s \"$VALUE\"", lines.join("\n"))).output().unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&out.stdout), value);
        is_bash(&text);
    }

    #[test]
    fn names_of_files_are_plain(label in any::<String>()) {
        let name = file_name(&label);
        prop_assert!(!name.is_empty() && !name.starts_with(['.', '-']) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)));
    }
}
