//! The manifest's further sections: metrics, workloads, commands, expectations, files, troubleshooting, cost, next steps.

use servelab_core::plan::{Load, Plan, PlannedCell, StopAt};
use servelab_core::site::Scheduler;
use servelab_core::workload::DatasetSpec;

use servelab_core::study::{Study, Workload};

use super::ManifestOptions;
use crate::commands::{HowToRun, first_point, handle, shell_word};
use crate::limits::{bound, request_limits};
use crate::plan::findings::workload_names;
use crate::text::document::Document;
use crate::text::number::{count, duration, exact, hours, percent, plural};
use crate::text::table::{Table, left, right};

pub(super) fn metrics(out: &mut Document, study: &Study) {
    out.heading(2, "Metrics Collected");
    out.paragraph(
        "Every cell is one row of results.csv. `servelab` documents each formula under \"Metric definitions\"; a number \
         that cannot be measured is empty, never 0.",
    );
    let goal = |metric: &str| {
        let limit = study.slo.cell.0.get(metric);
        limit.map(|limit| format!(" (SLO: {})", bound(metric, &[*limit]))).unwrap_or_default()
    };
    let latency = |name: &str, slo: &str, words: &str| {
        let goals: Vec<String> = ["mean", "p50", "p95", "p99"]
            .into_iter()
            .filter_map(|statistic| {
                let metric = format!("{slo}_{statistic}_ms");
                let limit = study.slo.cell.0.get(&metric)?;
                Some(format!("{} {}", statistic.to_uppercase(), bound(&metric, &[*limit])))
            })
            .collect();
        let goals = if goals.is_empty() { String::new() } else { format!(" (SLO: {})", goals.join(", ")) };
        format!("`{name}_mean/p50/p95/p99_ms` - {words}{goals}")
    };
    out.heading(3, "Throughput");
    let goodput = match &study.slo.request {
        Some(request) => format!("requests per second with {}", request_limits(request)),
        None => "empty: the study sets no request SLO".to_owned(),
    };
    out.bullets([
        format!("`throughput_tokens_per_sec` - output tokens per second{}", goal("throughput_tok_s")),
        format!("`throughput_requests_per_sec` - requests completed per second{}", goal("throughput_req_s")),
        format!("`goodput_requests_per_s` - {goodput}"),
        "`total_tokens_generated` - output tokens of all requests".to_owned(),
    ]);
    out.heading(3, "Latency (milliseconds)");
    out.bullets([
        latency("ttft", "ttft", "time to first token"),
        latency("ttft_sched", "ttft_sched", "the same from the intended send time"),
        latency("itl", "itl", "inter-token latency"),
        latency("tpot", "tpot", "time per output token after the first"),
        latency("e2e_latency", "e2e", "end-to-end request latency"),
    ]);
    out.heading(3, "Reliability");
    out.bullets([
        format!("`success_rate` - share of requests that succeeded{}", goal("success")),
        "`failed_requests` - failed requests; `failures` in result.json counts them by code".to_owned(),
        "`total_time_s` - length of the measured window".to_owned(),
        "`verdict` - `ok`, or the reasons why a cell must not be believed".to_owned(),
    ]);
    out.heading(3, "System (the server's own metrics over the window)");
    out.bullets([
        "`prom_preemptions` - preempted requests (should be 0)",
        "`prom_cache_usage`, `prom_cache_usage_max` - share of the KV cache in use",
        "`prom_requests_running` - requests being served, mean",
        "`prom_requests_waiting` - requests queued, mean",
    ]);
}

pub(super) fn workloads(out: &mut Document, plan: &Plan, study: &Study) {
    let names = workload_names(plan);
    if names.is_empty() {
        return;
    }
    out.heading(2, if names.len() == 1 { "Workload" } else { "Workloads" });
    for name in names {
        out.heading(3, name.clone());
        let cells: Vec<&PlannedCell> = plan.cells.iter().filter(|cell| cell.workload == name).collect();
        let mut facts = study.workloads.get(&name).map(dataset_facts).unwrap_or_default();
        facts.push(("Load".to_owned(), distinct(cells.iter().map(|cell| load_words(&cell.load)))));
        facts.push(("Stop".to_owned(), distinct(cells.iter().map(|cell| stop_words(cell.settings.stop)))));
        let warmup = distinct(cells.iter().map(|cell| plural(cell.settings.warmup_requests.into(), "request")));
        facts.push(("Warm-up".to_owned(), warmup));
        facts.push(("Seed".to_owned(), distinct(cells.iter().map(|cell| cell.settings.seed.to_string()))));
        let repeats = cells.iter().map(|cell| cell.repeat.saturating_add(1)).max().unwrap_or(1);
        facts.push(("Repeats".to_owned(), repeats.to_string()));
        out.facts(facts);
    }
}

/// Different words in the order of appearance.
fn distinct(words: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen.join(", ")
}

fn load_words(load: &Load) -> String {
    match load {
        Load::Closed { concurrency, think_s, start } => {
            let think = think_s.map(|think| format!(", pauses of {think}")).unwrap_or_default();
            let start = start.map(|start| format!(", start {start}")).unwrap_or_default();
            format!("{} in flight{think}{start}", plural((*concurrency).into(), "request"))
        }
        Load::Open { rate_per_s, arrival, max_concurrency } => {
            format!("{} requests/s ({arrival}{})", exact(*rate_per_s), cap_words(*max_concurrency))
        }
        Load::Ramp { ramp, arrival, max_concurrency } => {
            format!("{ramp} requests/s ({arrival}{})", cap_words(*max_concurrency))
        }
        Load::Replay { speed, max_concurrency } => {
            format!("the trace's instants, {} times as fast{}", exact(*speed), cap_words(*max_concurrency))
        }
        Load::Offline { .. } => load.describe(),
    }
}

fn cap_words(max_concurrency: Option<u32>) -> String {
    max_concurrency.map(|cap| format!(", at most {} in flight", count(cap.into()))).unwrap_or_default()
}

fn stop_words(stop: StopAt) -> String {
    match stop {
        StopAt::Requests(requests) => format!("after {}", plural(requests.into(), "request")),
        StopAt::DurationS(seconds) => format!("after {} s", exact(seconds)),
        StopAt::TraceEnd => "with the trace".to_owned(),
        StopAt::Steady { min_s, max_s } => format!("when steady, {}–{} s", exact(min_s), exact(max_s)),
    }
}

fn dataset_facts(workload: &Workload) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
    match &workload.dataset {
        DatasetSpec::File(file) => fact("File", format!("`{}` ({})", file.path, file.format.as_str())),
        DatasetSpec::Trace(trace) => {
            fact("Trace", format!("`{}` ({}), text generated", trace.path, trace.format.as_str()))
        }
        DatasetSpec::Conversations(spec) => fact(
            "Conversations",
            spec.file.as_ref().map_or_else(|| "generated".to_owned(), |file| format!("`{}`", file.path)),
        ),
        DatasetSpec::Suite(suite) => fact("Dataset", format!("`{}`, generated", suite.as_str())),
        DatasetSpec::Synth(_) => fact("Dataset", "generated".to_owned()),
    }
    if let Some(synth) = workload.dataset.synth() {
        fact(
            "Size",
            format!("{} per load level (more are made when a level needs more)", plural(synth.n.into(), "prompt")),
        );
        if let Some(mix) = synth.mix {
            let shares = [("short", mix.short), ("medium", mix.medium), ("long", mix.long)];
            let words: Vec<String> = shares
                .iter()
                .filter(|(_, share)| *share > 0.0)
                .map(|(name, share)| format!("{} {name}", percent(*share)))
                .collect();
            fact("Distribution", words.join(", "));
        }
        let bounds = synth.length_bounds();
        let range = |min: u32, max: u32| match min == max {
            true => count(min.into()),
            false => format!("{}–{}", count(min.into()), count(max.into())),
        };
        fact("Prompt tokens", range(bounds.input.min, bounds.input.max));
        fact("Output tokens", range(bounds.output.min, bounds.output.max));
    }
    if let Some(max) = workload.output.max {
        fact("Max output", format!("{} tokens per request", count(max.into())));
    }
    facts
}

pub(super) fn how_to_run(out: &mut Document, plan: &Plan, study: &Study, how: &HowToRun<'_>) {
    out.heading(2, "How to Run");
    let Some(first) = first_point(plan, study) else {
        out.paragraph("Nothing here can run: see the reasons above.");
        return;
    };
    let label = handle(first);
    let only = ["--only", label];
    out.paragraph(how.note().unwrap_or_default());
    out.heading(3, "Run a Single Experiment (recommended first)");
    let mut lines = vec![format!("# Test with {label}"), how.measure(&only), String::new(), "# Monitor".to_owned()];
    lines.push(how.command("status", &[]));
    lines.extend(how.queue().map(str::to_owned));
    lines.push(how.command("logs", &["--only", label, "-f"]));
    lines.extend([String::new(), "# Results".to_owned(), how.command("report", &only)]);
    out.code("bash", lines.join("\n"));
    out.heading(3, "Run All Experiments");
    let mut lines = vec!["# The same command again goes on where it stopped".to_owned(), how.measure(&[])];
    lines.extend([String::new(), "# Monitor".to_owned(), how.command("status", &[]), String::new()]);
    lines.push("# Compare".to_owned());
    lines.push(how.command("report", &["--enrich-configs"]));
    if let Some(name) = plan.designs.iter().find_map(|design| design.factors.first()) {
        lines.push(how.command("report", &["--compare-param", name, "--metric", "throughput_tokens_per_sec"]));
    }
    out.code("bash", lines.join("\n"));
}

pub(super) fn expectations(out: &mut Document, plan: &Plan, study: &Study) {
    let mut facts = Vec::new();
    for design in &plan.designs {
        let own = study.designs.get(&design.name).and_then(|design| design.expect.as_ref());
        let claim = own.and_then(|expect| Some((expect.metric.as_ref()?, expect.change_percent?)));
        let claim = claim.map(|(metric, [from, to])| {
            format!(
                " Claim: {} changes by {} to {} % against the baseline.",
                crate::names::metric_title(metric),
                exact(from),
                exact(to)
            )
        });
        if let Some(expect) = &design.expect {
            facts.push((design.name.clone(), format!("{expect}{}", claim.unwrap_or_default())));
        }
    }
    if facts.is_empty() {
        out.paragraph("The study states no expectation (`expect:` in a design).");
    }
    out.facts(facts);
}

pub(super) fn output_files(out: &mut Document, plan: &Plan, options: &ManifestOptions<'_>) {
    out.heading(2, "Output Files");
    let root = options.how.root.unwrap_or("servelab-out");
    let mut tree = format!(
        "{root}/\n\
         ├── studies/{study}/        study.yaml, plan.json, labels.json, events.jsonl, MANIFEST.md\n\
         ├── points/<point>/         config.json, command.txt, effective.json\n\
         ├── cells/<cell>/attempt-N/ state.json, result.json, requests.parquet, prom.parquet, server logs\n",
        study = plan.study
    );
    if options.how.scheduler != Scheduler::Local {
        tree.push_str(&format!("├── studies/{}/scripts/ job scripts and launch_all.sh\n", plan.study));
    }
    tree.push_str(&format!(
        "└── reports/{}/<rev>/     results.csv, results.parquet, report.txt, report.md, viz_data.json",
        plan.study
    ));
    out.code("text", tree);
}

pub(super) fn troubleshooting(out: &mut Document, plan: &Plan, how: &HowToRun<'_>) {
    out.heading(2, "Troubleshooting");
    out.heading(3, "Before Running");
    out.bullets([
        format!("`{}` checks the study again; `{}` checks the machine.", how.command("plan", &[]), "servelab doctor"),
        "A model path, environment or account that is wrong is corrected in the site file, not in the configurations: ids do not change.".to_owned(),
    ]);
    let warnings = crate::plan::findings::other_warnings(plan);
    out.bullets(warnings.into_iter().map(|warning| format!("Warning of this plan: {warning}")));
    out.heading(3, "During Experiments");
    out.bullets([
        "Out of memory: lower `gpu_memory_utilization`, `max_model_len` or `max_num_batched_tokens`".to_owned(),
        format!("A job fails at once: `{}` quotes the line and says what to do", how.command("status", &[])),
        "Low throughput: raise `max_num_batched_tokens` or `max_num_seqs`, and check that the load reaches them"
            .to_owned(),
        "High latency: lower `max_num_batched_tokens` or the load".to_owned(),
    ]);
    out.heading(3, "After Experiments");
    out.code(
        "bash",
        format!(
            "# How many cells are done ({} can run)\n{}\n\n# Run failed ones again\n{}\n\n# What a code means\nservelab explain CODE",
            count(plan.counts.runnable_cells),
            how.command("status", &[]),
            how.measure(&["--retry", "failed"])
        ),
    );
}

pub(super) fn cost(out: &mut Document, plan: &Plan, study: &Study) {
    out.heading(2, "Cost Estimate");
    let node_hours = plan.node_hours.sequential;
    let jobs = plan.jobs;
    let each = |total: f64| if jobs > 0 { total / jobs as f64 } else { 0.0 };
    let mut table = Table::new([left("What"), right("Time"), right("Node-hours")]);
    table.row([
        "Single server start (mean)".to_owned(),
        duration(each(plan.wall_hours.sequential)),
        hours(each(node_hours)),
    ]);
    table.row([
        format!("All {} one after the other", count(jobs)),
        duration(plan.wall_hours.sequential),
        hours(node_hours),
    ]);
    let at_a_time = study.budget.max_jobs.map_or("all at once".to_owned(), |n| format!("at most {n} at a time"));
    table.row([
        format!("All {} in parallel, {at_a_time}", count(jobs)),
        duration(plan.wall_hours.parallel),
        hours(node_hours),
    ]);
    out.table(table);
    out.paragraph(
        "Model loads are included. Where no stop rule fixes a duration the numbers rest on `budget.estimate` or its defaults; \
         they are no prediction of the server.",
    );
    if let Some(budget) = study.budget.node_hours {
        out.facts([("Budget", format!("{} node-hours", exact(budget)))]);
    }
}

pub(super) fn next_steps(out: &mut Document, study: &Study, how: &HowToRun<'_>) {
    out.heading(2, "Next Steps After Results");
    let mut best = vec![format!(
        "Identify the best configuration: `{}` ranks by {}",
        how.command("report", &[]),
        objective_words(study)
    )];
    let limits: Vec<String> = study
        .slo
        .cell
        .0
        .iter()
        .map(|(metric, limit)| format!("{} {}", crate::names::metric_title(metric), bound(metric, &[*limit])))
        .collect();
    if !limits.is_empty() {
        best.push(format!("It must meet the SLO: {}", limits.join(", ")));
    }
    best.push(format!(
        "Validate it: more requests and repeats, `{}`; one repeat cannot tell configurations apart",
        how.measure(&["--only", "LABEL", "--set", "repeats.n=3", "--set", "load.stop.requests=1000"])
    ));
    best.push(format!(
        "Serve it: `{}`",
        format_args!("servelab best {} --emit vllm-command", shell_word(how.study_file))
    ));
    out.bullets(best);
}

fn objective_words(study: &Study) -> String {
    format!("`{}`", study.report.objective.as_deref().unwrap_or("throughput_tokens_per_sec"))
}
