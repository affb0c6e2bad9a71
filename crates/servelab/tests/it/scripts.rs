//! docs/src/coming-from-scripts.md, executed: every row that says `runs` runs, in the order of the page and in one root;
//! every `file` is there afterwards; every other row carries its reason.

use std::path::Path;

use servelab_testkit::Place;

use super::{place, repository};

struct Row {
    line: usize,
    cells: Vec<String>,
    state: String,
}

/// Rows of the page's tables: the first column's parts without their quotes, and the state.
fn page() -> Vec<Row> {
    let text = std::fs::read_to_string(repository().join("docs/src/coming-from-scripts.md")).unwrap();
    let mut rows = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let columns: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [first, state, _] = columns.as_slice() else { panic!("line {}: not three columns: {line}", number + 1) };
        if *first == "servelab" {
            continue;
        }
        let cells = first.split("<br>").map(|part| part.trim().trim_matches('`').to_owned()).collect();
        rows.push(Row { line: number + 1, cells, state: (*state).to_owned() });
    }
    rows
}

/// Words of a command line, quotes as in a shell.
fn words(line: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.push(c),
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == ' ' => out.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            None => word.push(c),
        }
    }
    out.extend((!word.is_empty()).then_some(word));
    out
}

/// True when something matches a path in which `*` stands for any one name.
fn exists(folder: &Path, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('/') else {
        return if pattern == "*" {
            folder.read_dir().is_ok_and(|mut entries| entries.next().is_some())
        } else {
            folder.join(pattern).exists()
        };
    };
    if first != "*" {
        return exists(&folder.join(first), rest);
    }
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).any(|entry| exists(&entry.path(), rest))
}

/// The examples where the page expects them: in the folder in which its commands are typed.
fn with_examples() -> Place {
    let place = place();
    for folder in ["examples", "examples/sites"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                place.write(&name, &std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    place
}

#[test]
fn every_row_runs_or_says_why_not() {
    let place = with_examples();
    let (mut run, mut files, mut wrong) = (0, 0, Vec::new());
    for row in page() {
        let kind = row.state.split(':').next().unwrap_or_default();
        for cell in &row.cells {
            let at = format!("line {}: `{cell}`", row.line);
            match kind {
                "runs" => {
                    let Some(line) = cell.strip_prefix("servelab ") else { panic!("{at} is no servelab command") };
                    let out = place.servelab("").args(words(line)).run();
                    run += 1;
                    if out.code != Some(0) {
                        wrong.push(format!("{at}: exit code {:?}\n{}", out.code, out.stderr));
                    }
                }
                "file" => {
                    files += 1;
                    if !exists(place.path(), cell) {
                        wrong.push(format!("{at}: there is no such file"));
                    }
                }
                "edit" => {
                    let mut sources = servelab_core::source::SourceMap::default();
                    let id = sources.add("row", cell.as_str());
                    if let Err(problem) = servelab_core::yaml::parse(id, cell) {
                        wrong.push(format!("{at}: {}", problem.message));
                    }
                }
                "later" | "never" => {
                    let reason = row.state.split_once(": ").map(|(_, reason)| reason.len());
                    if reason.is_none_or(|length| length < 15) {
                        wrong.push(format!("{at}: `{kind}` needs a reason"));
                    }
                }
                other => wrong.push(format!("{at}: `{other}` is no state")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(run > 40 && files > 5, "{run} commands and {files} files: the page was not read");
    place.wait_until_quiet();
}

/// A row that says `later` for a command that exists would hide it.
#[test]
fn later_means_that_it_is_not_there() {
    let place = with_examples();
    let help = place.servelab("--help").run().expect(0).stdout;
    for row in page().iter().filter(|row| row.state.starts_with("later: ") && row.cells[0].starts_with("servelab ")) {
        let command = words(&row.cells[0]).get(1).cloned().unwrap_or_default();
        let is_listed = help.lines().any(|line| line.starts_with(&format!("  {command} ")));
        let says_why =
            ["works, but", "come with", "profiling run", "router"].iter().any(|words| row.state.contains(words));
        assert!(!is_listed || says_why, "line {}: `{command}` exists: {}", row.line, row.state);
    }
}
