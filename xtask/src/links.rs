//! Relative links of the documentation: every file that a page names is there, and every page of the book is in its table
//! of contents. Addresses on the web are not looked at.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

const BOOK: &str = "docs/src";
/// Pages outside the book.
const PAGES: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Everything that is wrong, one line each.
pub(crate) fn broken(root: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut pages: Vec<PathBuf> = PAGES.iter().map(|page| root.join(page)).filter(|page| page.exists()).collect();
    let mut book = Vec::new();
    collect(&root.join(BOOK), &mut book)?;
    pages.extend(book.iter().cloned());
    let summary = root.join(BOOK).join("SUMMARY.md");
    let mut listed = Vec::new();
    let mut problems = Vec::new();
    for page in &pages {
        let folder = page.parent().unwrap_or(root);
        for target in targets(&fs::read_to_string(page)?) {
            let path = folder.join(&target);
            match path.canonicalize() {
                Ok(path) if *page == summary => listed.push(path),
                Ok(_) => {}
                Err(_) => problems.push(format!("{}: `{target}` is not there", shown(root, page))),
            }
        }
    }
    for page in book.iter().filter(|page| **page != summary) {
        if !listed.contains(&page.canonicalize()?) {
            problems.push(format!("{} is not in SUMMARY.md", shown(root, page)));
        }
    }
    Ok(problems)
}

fn shown(root: &Path, page: &Path) -> String {
    page.strip_prefix(root).unwrap_or(page).display().to_string()
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// Paths of `[text](path#part)` outside code, without the part.
fn targets(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (idx, piece) in line.split("](").enumerate() {
            let Some((target, _)) = piece.split_once(')').filter(|_| idx > 0) else { continue };
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = path.contains("://") || path.starts_with("mailto:");
            if !path.is_empty() && !is_elsewhere && !path.contains(' ') {
                out.push(path.to_owned());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found() {
        let text = "[a](b.md#c) and [d](../e/)\n```\n[x](y)\n```\n[web](https://example.org) [f](#part)";
        assert_eq!(targets(text), ["b.md", "../e/"]);
    }

    #[test]
    fn a_missing_page_and_an_unlisted_one_are_told() {
        let root = tempfile::tempdir().unwrap();
        let book = root.path().join(BOOK);
        fs::create_dir_all(&book).unwrap();
        fs::write(book.join("SUMMARY.md"), "[a](a.md)\n[gone](gone.md)\n").unwrap();
        fs::write(book.join("a.md"), "").unwrap();
        fs::write(book.join("b.md"), "").unwrap();
        let problems = broken(root.path()).unwrap();
        assert_eq!(problems, ["docs/src/SUMMARY.md: `gone.md` is not there", "docs/src/b.md is not in SUMMARY.md"]);
    }
}
