//! Findings: Markdown whose numbers are bound to cells by comments that no reader sees, so that they can be computed anew.
//! Here the text is read; values come from the store.

#[cfg(test)]
mod tests;

/// The sections of a finding, in order.
pub const SECTIONS: [&str; 6] = ["Question", "Observation", "Details", "Reproduce", "Data", "Implications"];

/// What a template writes where a person is to write.
pub const PLACEHOLDER: &str = "TODO:";

/// How a binding begins in Markdown.
const OPEN: &str = "<!-- =";
const CLOSE: &str = "-->";

/// Which value stands behind a number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Binding {
    /// A column of the results table, or a name that SLOs use.
    pub metric: String,
    /// Label or id of the point.
    pub point: String,
    /// Label or id of a point that it is compared with: the number is then a difference in percent.
    pub versus: Option<String>,
    /// Load in words, `closed 16`.
    pub load: Option<String>,
    /// Workload.
    pub workload: Option<String>,
    /// Relative deviation that is allowed on top of rounding, as a fraction.
    pub within: f64,
}

/// A bound number.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundNumber {
    /// Line in the file, from 1.
    pub line: usize,
    /// As it stands there.
    pub written: String,
    /// Its value; a percentage of a fraction is the fraction.
    pub value: f64,
    /// Half a unit of its last digit.
    pub half_unit: f64,
    /// What it is bound to.
    pub binding: Binding,
}

impl BoundNumber {
    /// Is `now` what was written, as far as its digits and its tolerance say?
    pub fn agrees_with(&self, now: f64) -> bool {
        // A little more than half a unit: 0.125 may be written as 0.12 or 0.13.
        (now - self.value).abs() <= self.half_unit * 1.000_001 + self.binding.within * self.value.abs()
    }
}

/// Something in a finding that cannot be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindingProblem {
    /// Line, from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A finding as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FindingText {
    /// The first heading.
    pub title: String,
    /// The first line of the question.
    pub question: String,
    /// Its bound numbers.
    pub numbers: Vec<BoundNumber>,
    /// What cannot be checked: bindings that nobody understands, sections that are missing or not written yet.
    pub problems: Vec<FindingProblem>,
}

/// Reads a finding. Whatever the text is, the rest of it is read too.
pub fn read_finding(markdown: &str) -> FindingText {
    let mut out = FindingText::default();
    let mut section: Option<&str> = None;
    let mut filled: Vec<&str> = Vec::new();
    let mut is_code = false;
    for (line, text) in (1..).zip(markdown.lines()) {
        if text.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let heading = text.strip_prefix('#').filter(|_| !is_code).map(|rest| rest.trim_start_matches('#').trim());
        if let Some(heading) = heading {
            section = SECTIONS.into_iter().find(|known| heading.eq_ignore_ascii_case(known));
            if out.title.is_empty() && section.is_none() {
                out.title = heading.to_owned();
            }
            continue;
        }
        if text.contains(PLACEHOLDER) {
            let where_ = section.unwrap_or("the finding");
            out.problems.push(problem(line, format!("{where_} is not written yet: `{PLACEHOLDER}` stands there")));
        }
        if let Some(section) = section.filter(|_| !text.trim().is_empty()) {
            if section == "Question" && out.question.is_empty() {
                out.question = text.trim().to_owned();
            }
            if !filled.contains(&section) {
                filled.push(section);
            }
        }
        bindings(line, text, &mut out);
    }
    for section in SECTIONS.iter().filter(|section| !filled.contains(section)) {
        out.problems.push(problem(0, format!("there is no section `{section}`, or nothing in it")));
    }
    out
}

fn problem(line: usize, message: String) -> FindingProblem {
    FindingProblem { line, message }
}

fn bindings(line: usize, text: &str, out: &mut FindingText) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        let Some((body, behind)) = after.split_once(CLOSE) else {
            out.problems.push(problem(line, format!("`{OPEN}` without `{CLOSE}` on the same line")));
            return;
        };
        rest = behind;
        match parse_binding(body).and_then(|binding| Ok((last_number(before, &binding)?, binding))) {
            Ok(((written, value, half_unit), binding)) => {
                out.numbers.push(BoundNumber { line, written, value, half_unit, binding });
            }
            Err(message) => out.problems.push(problem(line, message)),
        }
    }
}

/// `METRIC; point: LABEL; versus: LABEL; load: closed 16; workload: NAME; within: 2 %`.
fn parse_binding(body: &str) -> Result<Binding, String> {
    let mut parts = body.split(';').map(str::trim);
    let mut binding = Binding { metric: parts.next().unwrap_or_default().to_owned(), ..Binding::default() };
    if binding.metric.is_empty() || binding.metric.contains(char::is_whitespace) {
        return Err(format!("`{}` is no metric: a binding begins with a column of results.csv", binding.metric));
    }
    for part in parts.filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once(':').map(|(key, value)| (key.trim(), value.trim())) else {
            return Err(format!("`{part}` is not `key: value`"));
        };
        match key {
            "point" => binding.point = value.to_owned(),
            "versus" => binding.versus = Some(value.to_owned()),
            "load" => binding.load = Some(value.to_owned()),
            "workload" => binding.workload = Some(value.to_owned()),
            "within" => {
                let number = value.strip_suffix('%').map(str::trim).and_then(|number| number.parse::<f64>().ok());
                let percent = number.filter(|percent| percent.is_finite() && *percent >= 0.0);
                binding.within =
                    percent.ok_or_else(|| format!("`within: {value}` is no percentage, as in `within: 2 %`"))? / 100.0;
            }
            other => {
                return Err(format!("`{other}` is no key: point, versus, load, workload, within"));
            }
        }
    }
    if binding.point.is_empty() {
        return Err("a binding needs `point: LABEL`".to_owned());
    }
    Ok(binding)
}

/// The last number before a binding, with its value and half a unit of its last digit.
fn last_number(before: &str, binding: &Binding) -> Result<(String, f64, f64), String> {
    let is_part = |c: char| c.is_ascii_digit() || c == '.' || c == ',';
    // Nothing of an earlier binding.
    let before = before.rsplit(CLOSE).next().unwrap_or(before);
    let missing = || "there is no number before the binding".to_owned();
    let end = before.rfind(|c: char| c.is_ascii_digit()).map(|idx| idx + 1).ok_or_else(missing)?;
    let head = before.get(..end).unwrap_or_default();
    let start = head
        .rfind(|c: char| !is_part(c))
        .map_or(0, |idx| idx + head.get(idx..).and_then(|s| s.chars().next()).map_or(1, char::len_utf8));
    let digits = head.get(start..).unwrap_or_default().trim_start_matches(['.', ',']);
    let is_negative = head.get(..start).is_some_and(|left| left.ends_with(['-', '−']));
    let plain = digits.replace(',', "");
    let value: f64 = plain.parse().map_err(|_| format!("`{digits}` is no number"))?;
    let decimals = plain.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let mut half_unit = 0.5 * 10_f64.powi(-i32::try_from(decimals).unwrap_or(300));
    let mut value = if is_negative { -value } else { value };
    let unit = before.get(end..).unwrap_or_default().trim_start_matches(['*', '_', ' ', '\u{a0}', '\u{202f}']);
    if unit.starts_with('%') && binding.versus.is_none() {
        value /= 100.0;
        half_unit /= 100.0;
    }
    Ok((format!("{}{digits}", if is_negative { "-" } else { "" }), value, half_unit))
}

/// A binding as it is written into Markdown.
pub fn binding_comment(binding: &Binding) -> String {
    let mut out = format!("{OPEN} {}; point: {}", binding.metric, binding.point);
    for (key, value) in [("versus", &binding.versus), ("load", &binding.load), ("workload", &binding.workload)] {
        if let Some(value) = value {
            out.push_str(&format!("; {key}: {value}"));
        }
    }
    if binding.within > 0.0 {
        out.push_str(&format!("; within: {} %", binding.within * 100.0));
    }
    out.push_str(&format!(" {CLOSE}"));
    out
}
