use proptest::prelude::*;
use servelab_core::plan::{Placement, RolePlan};

use super::*;
use crate::fixtures::{executable, plan, point};

/// A Python that answers instead of the engine: a shell script under the name that the program's first line gives.
fn fake_engine(folder: &Path, script: &str) -> PathBuf {
    let python = folder.join("python3");
    executable(&python, &format!("#!/bin/sh\ncat > '{}/asked'\n{script}\n", folder.display()));
    let program = folder.join("vllm");
    std::fs::write(&program, format!("#!{}\n", python.display())).unwrap();
    program
}

fn request<'a>(program: &'a Path, env: &'a [(String, String)]) -> CheckRequest<'a> {
    CheckRequest { program, dialect: Dialect::Vllm, env, limit: Duration::from_secs(30) }
}

fn serving(name: &str, argv: &str, serve: Value) -> servelab_core::plan::PlannedPoint {
    let mut point = point(name, &[]);
    point.labels = vec![name.to_owned()];
    point.config = json!({"serve": serve});
    point.roles = vec![RolePlan {
        role: "serve".to_owned(),
        count: 1,
        gpus: 1,
        argv: argv.split(' ').map(str::to_owned).collect(),
        env: BTreeMap::new(),
        placement: vec![Placement { instance: 0, node_gpus: BTreeMap::new() }],
    }];
    point
}

#[test]
fn equal_command_lines_are_asked_about_once_and_answers_are_judged() {
    let folder = tempfile::tempdir().unwrap();
    let program = fake_engine(
        folder.path(),
        r#"echo 'INFO noise'
echo '@servelab {"version": "0.32.0"}'
echo 'x @servelab {"index": 0, "config": {"scheduler_config": {"max_num_seqs": 8, "max_num_batched_tokens": 2048}}}'
echo '@servelab {"index": 1, "refused": "vllm serve: error: unrecognized arguments: --swap-space"}'
echo '@servelab {"index": 2, "config": {"parallel_config": {"all2all_backend": "allgather_reducescatter"}}, "warnings": ["w"]}'
echo '@servelab {"index": 3, "unchecked": "RuntimeError: Failed to infer device type"}'
echo '@servelab not json'"#,
    );
    let points = vec![
        serving("a", "vllm serve m --max-num-seqs 8", json!({"max_num_seqs": 8})),
        serving("b", "vllm serve m --max-num-seqs 8", json!({"max_num_seqs": 8})),
        serving("c", "vllm serve m --swap-space 4", json!({"swap_space": 4})),
        serving("d", "vllm serve m --all2all-backend pplx", json!({"all2all_backend": "pplx"})),
        serving("e", "vllm serve m", json!({})),
        serving("f", "vllm serve m --late", json!({})),
    ];
    let check = check_engine(&plan(points, Vec::new()), &request(&program, &[])).unwrap();
    let asked: Value = serde_json::from_slice(&std::fs::read(folder.path().join("asked")).unwrap()).unwrap();
    assert_eq!(asked.pointer("/sets/0/argv"), Some(&json!(["m", "--max-num-seqs", "8"])));
    assert_eq!(check.engine_version, "0.32.0");
    let got: Vec<(Vec<String>, SetStatus)> = check.sets.iter().map(|set| (set.labels.clone(), set.status)).collect();
    let expected = [
        (vec!["a", "b"], SetStatus::Ok),
        (vec!["c"], SetStatus::Refused),
        (vec!["d"], SetStatus::Changed),
        (vec!["e"], SetStatus::Parsed),
        (vec!["f"], SetStatus::Parsed),
    ];
    let expected = expected.map(|(labels, status)| (labels.into_iter().map(str::to_owned).collect::<Vec<_>>(), status));
    assert_eq!(got, expected);
    assert_eq!(check.sets[0].implied.get("max_num_batched_tokens"), Some(&json!(2048)));
    assert!(!check.sets[0].implied.contains_key("max_num_seqs"));
    assert_eq!(check.sets[2].differences[0].effective, json!("allgather_reducescatter"));
    assert_eq!((check.sets[2].warnings.len(), check.refused().count()), (1, 1));
    assert!(check.sets[4].detail.as_ref().is_some_and(|detail| detail.contains("ended before")));
}

#[test]
fn engines_that_cannot_be_asked() {
    let folder = tempfile::tempdir().unwrap();
    let none = plan(Vec::new(), Vec::new());
    let broken = fake_engine(folder.path(), "echo 'ImportError: no vllm' >&2; exit 1");
    let error = check_engine(&none, &request(&broken, &[])).unwrap_err().to_string();
    assert!(error.contains("no vllm"), "{error}");
    let slow = fake_engine(folder.path(), "exec sleep 60");
    let limited = CheckRequest { limit: Duration::from_millis(100), ..request(&slow, &[]) };
    assert!(matches!(check_engine(&none, &limited), Err(CheckError::TimedOut { .. })));
    let script = folder.path().join("wrapper");
    std::fs::write(&script, "#!/bin/bash\n").unwrap();
    assert!(matches!(check_engine(&none, &request(&script, &[])), Err(CheckError::NoPython(_))));
    let sim = CheckRequest { dialect: Dialect::Sim, ..request(&script, &[]) };
    assert!(matches!(check_engine(&none, &sim), Err(CheckError::NotAsked)));
}

#[test]
fn long_validation_errors_are_cut_where_the_dump_begins() {
    let text = "ValidationError: 1 validation error for ParallelConfig\n  Value error, tp_size=1 must be divisible by dcp_size=2. \
                [type=value_error, input_value=ArgsKwargs((), {})]\n    For further information";
    let expected = "ValidationError: 1 validation error for ParallelConfig tp_size=1 must be divisible by dcp_size=2.";
    assert_eq!(first_sentence(text), expected);
}

proptest! {
    #[test]
    fn any_output_is_read(output in "(@servelab |[{}\":,a-z0-9\\[\\] \n]){0,40}") {
        let _ = Answers::read(&output);
    }
}
