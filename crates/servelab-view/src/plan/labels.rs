//! Which label of a point comes from which entry of which design. A plan lists a point's labels and designs side by side;
//! here they are matched again by the study's own naming rules, for group headings and purposes.

use servelab_core::plan::PlannedPoint;
use servelab_core::study::{Design, Study};

/// What a design says about one of its labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Group of an ablation.
    pub group: Option<String>,
    /// What the entry is for.
    pub purpose: Option<String>,
    /// What the author expects of it.
    pub expect: Option<String>,
}

/// The labels that a design gave to a point. Falls back to all of them, so that no point goes nameless.
pub fn labels_in<'a>(study: &Study, design: &str, point: &'a PlannedPoint) -> Vec<&'a str> {
    let all = || point.labels.iter().map(String::as_str);
    if point.designs.len() < 2 {
        return all().collect();
    }
    let Some(own) = study.designs.get(design) else { return all().collect() };
    let matching: Vec<&str> = all().filter(|label| entry(design, own, label).is_some()).collect();
    if matching.is_empty() { all().collect() } else { matching }
}

/// What the design says about a label; `None` when its naming rules cannot have made it.
pub fn entry(name: &str, design: &Design, label: &str) -> Option<Entry> {
    if let Some(list) = &design.list {
        // An exact name beats a template that happens to match.
        let exact = list.iter().find(|(key, _)| *key == label);
        let (_, found) = exact.or_else(|| list.iter().find(|(key, _)| named_by(key, label)))?;
        let expect = found.expect.as_ref().map(|expect| expect.text.clone());
        return Some(Entry { group: None, purpose: found.purpose.clone(), expect });
    }
    if let Some(groups) = &design.ablate {
        return groups.iter().find_map(|(group, arms)| {
            let number = group.split_whitespace().next().unwrap_or(group);
            let rest = label.strip_prefix(number)?;
            let arm = arms.get(rest)?;
            Some(Entry { group: Some(group.to_owned()), purpose: arm.purpose.clone(), expect: None })
        });
    }
    if design.grid.is_some() {
        let matches = match &design.label {
            Some(template) => named_by(template, label),
            None => named_by(name, label),
        };
        return matches.then(Entry::default);
    }
    Some(Entry::default())
}

/// Can this name, template or name of a grid have made the label? `batch_{a}` makes `batch_1`, `sweep` makes `sweep/a=1`.
fn named_by(template: &str, label: &str) -> bool {
    let literals: Vec<&str> = literals(template);
    let [first, middle @ .., last] = literals.as_slice() else {
        return label == template || label.strip_prefix(template).is_some_and(|rest| rest.starts_with('/'));
    };
    let Some(mut rest) = label.strip_prefix(first) else { return false };
    for literal in middle {
        match rest.find(literal) {
            Some(at) => rest = rest.get(at + literal.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The texts around the placeholders: at least two when there is one, a single one otherwise.
fn literals(template: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, behind)) = after.split_once('}') else { break };
        out.push(before);
        rest = behind;
    }
    out.push(rest);
    if out.len() == 1 { Vec::new() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |template: &str, label: &str, expected| {
            assert_eq!(named_by(template, label), expected, "{template} {label}")
        };
        check("batch_{a}_seqs_{b}", "batch_8192_seqs_128", true);
        check("batch_{a}_seqs_{b}", "batch_8192", false);
        check("batch_{a}", "ep_pplx", false);
        check("{a}", "anything", true);
        check("sweep", "sweep/a=1", true);
        check("sweep", "sweep2", false);
        check("ep_pplx", "ep_pplx", true);
        check("odd{", "odd{", true);
    }
}
