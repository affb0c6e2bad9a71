//! What the clients of Slurm and PBS print.
#![no_main]

use libfuzzer_sys::fuzz_target;
use servelab_run::scheduler::{pbs, slurm};

fuzz_target!(|text: &str| {
    slurm::parse::squeue(text);
    slurm::parse::sacct(text);
    slurm::parse::comments(text);
    slurm::parse::sinfo(text);
    slurm::parse::sbatch_answer(text);
    slurm::parse::max_array_size(text);
    slurm::json::squeue(text);
    slurm::json::comments(text);
    slurm::json::sacct(text);
    slurm::json::sinfo(text);
    slurm::parse::scontrol_jobs(text);
    for job in pbs::parse::qstat_f(text) {
        job.report();
        job.variable(pbs::JOB_VARIABLE);
    }
    pbs::parse::pbsnodes_a(text);
});
