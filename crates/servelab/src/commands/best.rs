//! `servelab best`: the point to use, how sure that is, and the point in the form in which it is used next: a command
//! line, a configuration file of vLLM, or a study that validates it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use servelab_core::plan::{Plan, PlannedPoint};
use servelab_store::best::{Best, BestRequest, best as best_of};
use servelab_store::{Root, collect_rows};
use servelab_view::{Objective, best_text, meets_cell_slo};

use super::{select, stored};
use crate::cli::StudyArgs;
use crate::error::CommandError;
use crate::study_input::StudyInput;
use crate::ui::Ui;

/// Requests of a validation study, at least.
const VALIDATION_REQUESTS: u64 = 1_000;
/// Repeats of a validation study, at least.
const VALIDATION_REPEATS: u64 = 3;

/// Arguments of `servelab best`.
#[derive(Debug, Args)]
pub(crate) struct BestArgs {
    #[command(flatten)]
    study: StudyArgs,
    /// What is made large: an expression over columns; a leading `-` makes one small
    #[arg(long, value_name = "EXPR", allow_hyphen_values = true)]
    objective: Option<String>,
    /// The workload to decide by, where the study has several
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// Print the winner in this form instead of the answer
    #[arg(long, value_enum, value_name = "FORM")]
    emit: Option<Emit>,
    /// With `--emit study`: validate on the requests of this recorded trace too
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long, conflicts_with = "emit")]
    json: bool,
}

/// Forms of the winner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// The command lines, one per role, for a shell
    VllmCommand,
    /// A file for `vllm serve --config`
    VllmYaml,
    /// A study that measures the winner again: at least 1,000 requests and 3 repeats
    Study,
}

pub(crate) fn best(args: &BestArgs, ui: Ui) -> Result<ExitCode, CommandError> {
    let input = StudyInput::load(&args.study.study, &args.study.overrides())?;
    let objective = match &args.objective {
        Some(text) => Objective::parse(text)
            .map_err(|error| CommandError::usage(format!("`--objective {text}`: {}", error.message)))?,
        None => Objective::of_study(&input.study).map_err(|error| CommandError::usage(error.message))?,
    };
    let study_file = args.study.study.display();
    let nothing = || {
        let root = args.study.root.display();
        CommandError::failed(format!("study `{}` has no results under `{root}`", input.study.study))
            .hint(format!("measure first: servelab run {study_file}"))
    };
    if !args.study.root.exists() {
        return Err(nothing());
    }
    let root = Root::open(&args.study.root)?;
    let mut plan = stored::plan_with_history(&root, &input.study.study)?.ok_or_else(nothing)?;
    let context = stored::row_context(&input, &plan);
    select::narrow(&mut plan, &args.study)?;
    let mut rows = collect_rows(&root, &plan, &context)?;
    if let Some(workload) = &args.workload {
        if !rows.iter().any(|row| row.cell.workload == *workload) {
            let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.cell.workload.as_str()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            return Err(CommandError::usage(format!("the study has no workload `{workload}`"))
                .hint(format!("workloads: {}", names.join(", "))));
        }
        rows.retain(|row| row.cell.workload == *workload);
    }
    let value = |row: &servelab_store::ResultRow| objective.value(row);
    let meets = |row: &servelab_store::ResultRow| meets_cell_slo(&input.study, row);
    let answers = best_of(&rows, &BestRequest { value: &value, direction: objective.direction(), meets: &meets });
    let has_answer = answers.iter().any(|answer| !answer.entries.is_empty());
    if let Some(emit) = args.emit {
        let text = emitted(args, emit, &input, &plan, &answers)?;
        ui.data(&text);
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        let list: Vec<Value> = answers.iter().map(|answer| document(answer, &objective)).collect();
        let whole =
            json!({"schema": 1, "study": input.study.study, "objective": objective.source(), "workloads": list});
        ui.data(&serde_json::to_string_pretty(&whole).map_err(|error| CommandError::failed(error.to_string()))?);
    } else {
        ui.data(&best_text(&answers, &input.study, &objective, ui.width()));
        if has_answer {
            ui.say(&format!("next: servelab best {study_file} --emit study > validate.yaml"));
        }
    }
    Ok(if has_answer { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn emitted(
    args: &BestArgs,
    emit: Emit,
    input: &StudyInput,
    plan: &Plan,
    answers: &[Best],
) -> Result<String, CommandError> {
    let winners: Vec<&Best> = answers.iter().filter(|answer| !answer.entries.is_empty()).collect();
    let [answer] = winners.as_slice() else {
        return Err(match winners.len() {
            0 => CommandError::failed("nothing can be recommended").hint("servelab best without --emit says why"),
            _ => {
                let names: Vec<&str> = winners.iter().map(|answer| answer.workload.as_str()).collect();
                CommandError::usage(format!("the study has several workloads: {}", names.join(", ")))
                    .hint("choose one with --workload NAME")
            }
        });
    };
    let winner =
        answer.entries.first().and_then(|entry| plan.points.iter().find(|point| point.id == entry.group.point));
    let Some(point) = winner else { return Err(CommandError::failed("the winner is not in the plan")) };
    if emit == Emit::Study {
        return study(args, input, point, answer);
    }
    if point.roles.is_empty() {
        return Err(CommandError::failed(format!("point {} has no command line: it was imported", point.id.short())));
    }
    Ok(if emit == Emit::VllmCommand { commands(point) } else { yaml(point)? })
}

fn commands(point: &PlannedPoint) -> String {
    let mut out = String::new();
    for role in &point.roles {
        if point.roles.len() > 1 || role.count > 1 {
            out.push_str(&format!("# {} × {}\n", role.count, role.role));
        }
        let env = role.env.iter().map(|(key, value)| format!("{key}={}", servelab_run::quote(value)));
        let words = role.argv.iter().map(|word| servelab_run::quote(word));
        out.push_str(&env.chain(words).collect::<Vec<_>>().join(" "));
        out.push('\n');
    }
    out
}

/// The long options of `vllm serve` as a file for its `--config`. A switch that is off keeps its `no-` name, which every
/// version reads.
fn yaml(point: &PlannedPoint) -> Result<String, CommandError> {
    let mut out = String::new();
    for (idx, role) in point.roles.iter().enumerate() {
        let [program, verb, model, rest @ ..] = role.argv.as_slice() else {
            return Err(CommandError::failed(format!("role {} is not started by `vllm serve`", role.role)));
        };
        if !program.ends_with("vllm") || verb != "serve" {
            return Err(CommandError::failed(format!(
                "role {} is started by `{program} {verb}`, not by `vllm serve`",
                role.role
            )));
        }
        if point.roles.len() > 1 {
            out.push_str(&format!("{}# {} × {}\n", if idx > 0 { "---\n" } else { "" }, role.count, role.role));
        }
        out.push_str(&format!("model: {}\n", json!(model)));
        let mut words = rest.iter().peekable();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                return Err(CommandError::failed(format!("`{word}` is no long option, so it cannot stand in a file")));
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, words.next_if(|next| !next.starts_with("--")).cloned()),
            };
            let value = value.map_or(Value::Bool(true), |text| match serde_json::from_str::<Value>(&text) {
                Ok(number @ Value::Number(_)) => number,
                _ => Value::String(text),
            });
            out.push_str(&format!("{name}: {value}\n"));
        }
    }
    Ok(out)
}

fn study(args: &BestArgs, input: &StudyInput, point: &PlannedPoint, answer: &Best) -> Result<String, CommandError> {
    let mut document = input.doc.to_json();
    let Some(root) = document.as_object_mut() else { return Err(CommandError::failed("the study is no mapping")) };
    let name = format!("{}-validate", input.study.study);
    let label = point.labels.first().cloned().unwrap_or_else(|| point.id.short().to_owned());
    root.insert("study".into(), json!(name));
    for key in ["extends", "budget", "compat", "stop_early", "profile"] {
        root.remove(key);
    }
    let factors: Value =
        point.factors.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into();
    let mut design = json!({"list": {label.clone(): factors}});
    let load = answer.entries.first().map(|entry| entry.group.load.clone()).unwrap_or_default();
    let has_workloads = root.get("workloads").is_some_and(Value::is_object);
    if has_workloads {
        design["with"] = json!([answer.workload]);
    }
    let mut designs = serde_json::Map::new();
    if root.get("baseline").is_some_and(|baseline| baseline.as_str() != Some(label.as_str())) {
        root.remove("baseline");
    }
    if let Some(path) = &args.trace {
        let path = path.to_string_lossy();
        let workloads = root.entry("workloads").or_insert_with(|| json!({}));
        workloads["recorded"] = json!({"dataset": {"trace": {"path": path}}});
        let on_trace = json!({"list": {format!("{label}_recorded"): design["list"][&label]}, "with": ["recorded"], "load": {"replay": {"speed": [1]}}});
        designs.insert("recorded".into(), on_trace);
    }
    designs.insert("validate".into(), design);
    root.insert("designs".into(), Value::Object(designs));
    let repeats = root.entry("repeats").or_insert_with(|| json!({}));
    let n = repeats.get("n").and_then(Value::as_u64).unwrap_or(1).max(VALIDATION_REPEATS);
    if repeats.is_object() {
        repeats["n"] = json!(n);
    }
    if let Some(stop) = root.get_mut("load").and_then(|load| load.as_object_mut()) {
        let requests = stop.get("stop").and_then(|stop| stop.get("requests")).and_then(Value::as_u64).unwrap_or(0);
        stop.insert("stop".into(), json!({"requests": requests.max(VALIDATION_REQUESTS)}));
    }
    let text = serde_json::to_string_pretty(&document).map_err(|error| CommandError::failed(error.to_string()))?;
    let traced = if args.trace.is_some() {
        ""
    } else {
        "# Add the requests that you really serve: --trace FILE, or a workload with `dataset: {trace: …}`.\n"
    };
    Ok(format!(
        "# Validates {label} of study {}, which was best on {} at {load}. JSON is YAML.\n# Paths are relative to the study's own folder: keep this file beside it.\n{traced}{text}\n",
        input.study.study, answer.workload
    ))
}

fn document(answer: &Best, objective: &Objective) -> Value {
    let entry = |entry: &servelab_store::best::BestEntry| {
        json!({
            "rank": entry.place.rank,
            "point": entry.group.point,
            "labels": entry.group.labels,
            "load": entry.group.load,
            "mean": entry.place.mean,
            "n": entry.group.rows.len(),
            "p": entry.place.p,
            "ties_with_best": entry.place.ties_with_best,
            "simulated": entry.group.simulated,
        })
    };
    json!({
        "workload": answer.workload,
        "objective": objective.source(),
        "best": answer.entries.first().map(entry),
        "ranking": answer.entries.iter().map(entry).collect::<Vec<_>>(),
        "tied_points": answer.tied_points,
        "scatter": answer.ranking.scatter,
        "scatter_is_relative": answer.ranking.is_relative,
        "repeats_to_settle": answer.repeats_to_settle,
        "broke_limits": answer.broke_limits,
        "excluded": answer.excluded,
    })
}
