//! `--shard auto`: the rank that a launcher gave this process.

use super::{MAX_SHARDS, Shard, ShardError};

/// Rank variables with the variables that may hold the size, nearest launcher first: `mpiexec` inside a SLURM job sets
/// its own beside SLURM's, and only its own differ between its processes.
const LAUNCHERS: [(&str, &[&str]); 4] = [
    ("OMPI_COMM_WORLD_RANK", &["OMPI_COMM_WORLD_SIZE"]),
    ("PMI_RANK", &["PMI_SIZE"]),
    ("PMIX_RANK", &["PMIX_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]),
    ("SLURM_PROCID", &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"]),
];

/// Reads the environment through `variable`.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Shard, ShardError> {
    let number = |name: &str, value: &str| {
        value.trim().parse::<u32>().map_err(|_| ShardError::Environment {
            name: name.to_owned(),
            value: value.to_owned(),
            problem: "is no number",
        })
    };
    for (rank_name, size_names) in LAUNCHERS {
        let Some(rank_text) = variable(rank_name) else { continue };
        let index = number(rank_name, &rank_text)?;
        let Some((size_name, size_text)) = size_names.iter().find_map(|name| Some((*name, variable(name)?))) else {
            let problem = "comes without the number of processes; give --shard i/n";
            return Err(ShardError::Environment { name: rank_name.to_owned(), value: rank_text, problem });
        };
        let count = number(size_name, &size_text)?;
        return Shard::new(index, count).ok_or_else(|| ShardError::Environment {
            name: rank_name.to_owned(),
            value: format!("{index} with {size_name}={count}"),
            problem: if count > MAX_SHARDS { "are too many shards" } else { "is no rank below the size" },
        });
    }
    Err(ShardError::NotLaunched)
}
