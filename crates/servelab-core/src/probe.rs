//! Settings that a first, short start of the server tells: what to look for in its log, and what value follows. The start
//! itself is the runner's. A point carries its probes in `engine.probe` of its configuration, so that they are part of
//! its identity: "found by a probe" is another configuration than "left to the engine".

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::study::Study;

/// One setting to find.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRule {
    /// Setting.
    pub setting: String,
    /// Regular expression over the log; its first group is the value.
    pub from_log: String,
    /// Round down to a whole number.
    pub floor: bool,
    /// Value during the probing start.
    pub start_with: Value,
}

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Setting.
    pub setting: String,
    /// Its value from now on.
    pub value: Value,
    /// The log line that told it.
    pub line: String,
}

/// The study's probes as a point's configuration holds them; `None` without any.
pub fn content(study: &Study) -> Option<Value> {
    let rules: Vec<Value> = study
        .probe
        .iter()
        .map(|(setting, probe)| {
            let start_with = probe.start_with.clone().unwrap_or_else(|| json!(1));
            json!({"setting": setting, "from_log": probe.from_log, "floor": probe.floor, "start_with": start_with})
        })
        .collect();
    (!rules.is_empty()).then_some(Value::Array(rules))
}

/// The probes of a point's configuration.
pub fn rules(config: &Value) -> Vec<ProbeRule> {
    let rules = config.pointer("/engine/probe").cloned().unwrap_or_default();
    serde_json::from_value(rules).unwrap_or_default()
}

impl ProbeRule {
    /// The first line of a log that tells the value, or why there is none yet. The expression was checked with the study.
    pub fn find(&self, log: &str) -> Result<Probed, String> {
        let pattern = regex::Regex::new(&self.from_log).map_err(|error| error.to_string())?;
        let found = log.lines().find_map(|line| Some((line, pattern.captures(line)?.get(1)?.as_str())));
        let Some((line, text)) = found else {
            return Err(format!("no line of the log matches `{}`", self.from_log));
        };
        let number = text.replace(',', "").parse::<f64>().ok().filter(|number| number.is_finite());
        let value = match number {
            Some(number) if self.floor => whole(number.floor()),
            Some(number) => whole(number).or_else(|| Some(json!(number))),
            None if self.floor => None,
            None => Some(json!(text)),
        };
        let is_usable = |value: &Value| !self.floor || value.as_i64().is_some_and(|value| value >= 1);
        match value.filter(is_usable) {
            Some(value) => {
                let line = line.trim().chars().take(300).collect();
                Ok(Probed { setting: self.setting.clone(), value, line })
            }
            None => Err(format!("`{text}` gives no value of at least 1 for {}: {}", self.setting, line.trim())),
        }
    }
}

fn whole(number: f64) -> Option<Value> {
    (number.fract() == 0.0 && number.abs() < 9e15).then(|| json!(number as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(from_log: &str, floor: bool) -> ProbeRule {
        ProbeRule { setting: "max_num_seqs".to_owned(), from_log: from_log.to_owned(), floor, start_with: json!(1) }
    }

    const CONCURRENCY: &str = r"Maximum concurrency for [\d,]+ tokens per request: ([\d.,]+)x";

    #[test]
    fn values_from_logs() {
        let line = |times: &str| format!("x\nINFO Maximum concurrency for 32,768 tokens per request: {times}x\nlast");
        for (log, floor, expected) in [
            (line("61.44"), true, Ok(json!(61))),
            (line("1,024.00"), true, Ok(json!(1024))),
            (line("61.44"), false, Ok(json!(61.44))),
            (line("61.00"), false, Ok(json!(61))),
            (line("0.97"), true, Err("gives no value of at least 1")),
            ("nothing yet".to_owned(), true, Err("no line of the log matches")),
        ] {
            let got = rule(CONCURRENCY, floor).find(&log).map(|probed| probed.value);
            match expected {
                Ok(value) => assert_eq!(got, Ok(value)),
                Err(part) => assert!(got.as_ref().is_err_and(|error| error.contains(part)), "{got:?}"),
            }
        }
        let text = rule(r"backend=(\w+)", false).find("attention backend=FLASH used").map(|probed| probed.value);
        assert_eq!(text, Ok(json!("FLASH")));
        assert!(rule("(", true).find("x").is_err(), "a broken expression is an error, not a panic");
    }

    #[test]
    fn rules_of_a_configuration() {
        let config = json!({"engine": {"kind": "vllm", "probe": [
            {"setting": "max_num_seqs", "from_log": "(x)", "floor": true, "start_with": 1}]}});
        assert_eq!(rules(&config), [rule("(x)", true)]);
        assert!(rules(&json!({"engine": {"kind": "vllm"}})).is_empty());
    }

    proptest! {
        #[test]
        fn any_log_is_read(log in ".{0,200}", number in "[0-9.,e+-]{0,24}") {
            let _ = rule(r"(\S+)", true).find(&log);
            let _ = rule(CONCURRENCY, true).find(&format!("Maximum concurrency for 1 tokens per request: {number}x"));
        }
    }
}
