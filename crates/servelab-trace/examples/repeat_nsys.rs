//! Makes a large Nsight Systems export out of a real one, for measurements: its rows again and again, with shifted times and
//! link numbers, until the file has the wanted size.
//!
//! `cargo run --release -p servelab-trace --example repeat_nsys -- SMALL.sqlite LARGE.sqlite MEGABYTES`

#![expect(clippy::print_stderr, reason = "a tool for measurements")]

use std::error::Error;
use std::path::Path;

use rusqlite::Connection;

/// Tables whose rows happen; the others describe and are copied once.
const RECORDED: [&str; 6] =
    ["CUPTI_ACTIVITY_KIND_", "NVTX_EVENTS", "GPU_METRICS", "OSRT_API", "CUDNN_EVENTS", "CUBLAS_EVENTS"];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(from), Some(to), Some(megabytes)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: repeat_nsys SMALL.sqlite LARGE.sqlite MEGABYTES".into());
    };
    let wanted: u64 = megabytes.parse::<u64>()? << 20;
    if Path::new(&to).exists() {
        std::fs::remove_file(&to)?;
    }
    let connection = Connection::open(&to)?;
    connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    connection.execute("ATTACH ?1 AS source", [&from])?;
    let tables: Vec<(String, String)> = {
        let mut statement = connection.prepare("SELECT name, sql FROM source.sqlite_master WHERE type = 'table'")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    let mut repeated = Vec::new();
    let (mut span, mut links) = (1_i64, 1_i64);
    for (name, sql) in &tables {
        connection.execute_batch(sql)?;
        let columns: Vec<String> = {
            let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
            statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        if !RECORDED.iter().any(|recorded| name.starts_with(recorded)) {
            connection.execute_batch(&format!("INSERT INTO main.\"{name}\" SELECT * FROM source.\"{name}\""))?;
            continue;
        }
        let has = |column: &str| columns.iter().any(|known| known == column);
        if has("start") && has("end") {
            let sql = format!("SELECT coalesce(max(end) - min(start), 0) FROM source.\"{name}\"");
            span = span.max(connection.query_row(&sql, [], |row| row.get(0))?);
        }
        if has("correlationId") {
            let sql = format!("SELECT coalesce(max(correlationId) - min(correlationId), 0) FROM source.\"{name}\"");
            links = links.max(connection.query_row(&sql, [], |row| row.get(0))?);
        }
        let values: Vec<String> = columns
            .iter()
            .map(|column| match column.as_str() {
                "start" | "end" | "timestamp" => format!("\"{column}\" + ?1"),
                "correlationId" => "correlationId + ?2".to_owned(),
                other => format!("\"{other}\""),
            })
            .collect();
        let uses_links = has("correlationId");
        repeated.push((
            format!("INSERT INTO main.\"{name}\" SELECT {} FROM source.\"{name}\"", values.join(", ")),
            uses_links,
        ));
    }
    let mut round = 0_i64;
    while std::fs::metadata(&to)?.len() < wanted {
        connection.execute_batch("BEGIN")?;
        for (sql, uses_links) in &repeated {
            let mut statement = connection.prepare(sql)?;
            if *uses_links {
                statement.execute([round * (span + 1), round * (links + 1)])?;
            } else {
                statement.execute([round * (span + 1)])?;
            }
        }
        connection.execute_batch("COMMIT")?;
        round += 1;
    }
    eprintln!("{round} rounds, {} bytes", std::fs::metadata(&to)?.len());
    Ok(())
}
