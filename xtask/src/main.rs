//! Project chores: `cargo xtask docs`, `cargo xtask verify NAME`, `cargo xtask bench plan|load`, `cargo xtask ref-server`.
//! Nothing here ships, and nothing in the product may depend on it.

#![expect(clippy::print_stdout, reason = "chores talk to the person who runs them")]

mod bare_reader;
mod bench;
mod docs;
mod links;
mod ref_server;
mod system;
mod verify;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

/// Chores of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Write the pages under docs/src/reference that come from tables in the code
    Docs {
        /// Write nothing; fail when a page differs or a link leads nowhere
        #[arg(long)]
        check: bool,
    },
    /// Run a real verification and keep its dated output in docs/verification
    Verify {
        /// Which one
        #[arg(value_enum)]
        name: verify::Name,
    },
    /// Measure, and print rows of a Markdown table
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Serve scripted streams and stamp every read and write; prints its address, ends with its standard input
    RefServer(ref_server::RefServerArgs),
    /// Read streams with the least work possible: the floor of CPU time per token event
    BareReader(bare_reader::BareReaderArgs),
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = root();
    match Cli::parse().chore {
        Chore::Docs { check: true } => docs::check(&root),
        Chore::Docs { check: false } => docs::write(&root),
        Chore::Verify { name } => verify::verify(&root, name),
        Chore::Bench { what } => bench::bench(&root, &what),
        Chore::RefServer(args) => ref_server::serve(args),
        Chore::BareReader(args) => bare_reader::read(&args),
    }
}

/// The repository.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// First line that a command prints; empty when it cannot be run.
fn first_line(root: &Path, program: &str, args: &[&str]) -> String {
    let output = std::process::Command::new(program).args(args).current_dir(root).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}
