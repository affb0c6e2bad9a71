//! `exp_runner.pbs`: one script for every experiment of a study, chosen by a variable, as PBS users write it by hand:
//! `qsub -v 'EXP_NAME=1A,ENFORCE_EAGER=no' exp_runner.pbs`. The experiment's own job script then runs in its place. A variable
//! that contradicts the study is refused: it would be another experiment under the same name.

use std::fmt::Write as _;

use serde_json::Value;
use servelab_core::ids::JobId;

use super::{JOB_SCRIPT, JobScript, ScriptError, directives, safe};
use crate::launch::quote;

/// One experiment.
#[derive(Debug, Clone)]
pub struct Experiment<'a> {
    /// What `EXP_NAME` calls it.
    pub name: &'a str,
    /// Its job, whose script lies in the job's folder.
    pub job: &'a JobId,
    /// File name of its own script, for those that ask for other resources than the runner.
    pub script: &'a str,
    /// Nodes and GPUs per node that it asks for.
    pub asks: (u32, u32),
    /// Settings that may be said as variables, by name, as the study has them.
    pub settings: Vec<(String, String)>,
}

/// A setting as a variable: the last part of its name in capitals, switches as `yes` and `no`. Others than plain values
/// cannot be said in one.
pub fn variable(key: &str, value: &Value) -> Option<(String, String)> {
    let name = key.rsplit('.').next().unwrap_or(key).to_uppercase().replace('-', "_");
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let text = match value {
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.:/@%+=-".contains(c);
    (is_name && !name.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty() && text.chars().all(is_plain))
        .then_some((name, text))
}

/// The text of `exp_runner.pbs`. `job` is any job that asks for what the runner asks for.
pub fn exp_runner(
    job: &JobScript<'_>,
    asks: (u32, u32),
    experiments: &[Experiment<'_>],
) -> Result<String, ScriptError> {
    let example = experiments.first().map_or("1A", |experiment| experiment.name);
    let mut out = format!(
        "#!/bin/bash\n\
         # Any experiment of study {}, by its name:  qsub -v 'EXP_NAME={example},ENFORCE_EAGER=no' exp_runner.pbs\n\
         # What is done already, or runs, is left alone. `servelab submit` does the same for all and keeps track.\n",
        safe::comment(job.study),
    );
    directives::pbs(&mut out, job, directives::Naming::Runner)?;
    out.push_str(
        "\n# A value that differs from the study's would be another experiment under the same name.\n\
         same() {\n    \
         local given=${!1:-$2}\n    \
         [ \"$given\" = \"$2\" ] || { echo \"servelab: $EXP_NAME has $1=$2 in the study, not $given: give it a name of its own there\" >&2; exit 2; }\n\
         }\n\
         case \"${EXP_NAME:-}\" in\n",
    );
    for experiment in experiments {
        let _ = write!(out, "{})", quote(experiment.name));
        if experiment.asks == asks {
            for (name, value) in &experiment.settings {
                let _ = write!(out, " same {name} {};", quote(value));
            }
            let _ = writeln!(out, " job={} ;;", quote(experiment.job.as_str()));
        } else {
            let (nodes, gpus) = experiment.asks;
            let _ = writeln!(
                out,
                " echo 'servelab: it needs {nodes} nodes with {gpus} GPUs: qsub {}' >&2; exit 2 ;;",
                experiment.script
            );
        }
    }
    let names: Vec<&str> = experiments.iter().map(|experiment| experiment.name).collect();
    let jobs = job.intent.ancestors().nth(2).unwrap_or(job.intent);
    let _ = write!(
        out,
        "*) echo \"servelab: there is no experiment '${{EXP_NAME:-}}'; EXP_NAME is one of: {}\" >&2; exit 2 ;;\nesac\n\
         exec /bin/bash {}/\"$job\"/{JOB_SCRIPT}\n",
        names.join(" "),
        quote(&jobs.to_string_lossy()),
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_as_variables() {
        let of = |key: &str, value: Value| variable(key, &value).map(|(name, value)| format!("{name}={value}"));
        assert_eq!(of("max_model_len", json!(131_072)).as_deref(), Some("MAX_MODEL_LEN=131072"));
        assert_eq!(of("serve.enforce-eager", json!(false)).as_deref(), Some("ENFORCE_EAGER=no"));
        assert_eq!(of("kv_cache_dtype", json!("auto")).as_deref(), Some("KV_CACHE_DTYPE=auto"));
        for value in [json!({"a": 1}), json!("a b"), json!("$(id)"), json!(""), json!(null)] {
            assert_eq!(of("x", value.clone()), None, "{value}");
        }
        assert_eq!(of("8x", json!(1)), None);
    }
}
