//! What has to be made equal before two outputs of the same command can be compared: ids, times, ports.

use regex::Regex;

/// Regular expressions with what replaces them, in this order.
const FILTERS: [(&str, &str); 6] = [
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "[UUID]"),
    (r"\b[0-9a-f]{32}\b", "[ID]"),
    (r"\b[0-9a-f]{12}\b", "[SHORT-ID]"),
    (r"\b[0-9a-f]{10}\b", "[REVISION]"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:[PORT]"),
    (r"\b\d+(\.\d+)? (ns|µs|ms|s|min|h)\b", "[TIME]"),
];

/// Compares what a command left behind with the snapshot of this name.
#[macro_export]
macro_rules! servelab_snapshot {
    ($name:expr, $output:expr) => {
        insta::assert_snapshot!($name, $output.transcript())
    };
}

/// Names everything that differs from run to run.
pub(crate) fn filtered(text: &str) -> String {
    FILTERS.into_iter().fold(text.to_owned(), |text, (pattern, replacement)| {
        Regex::new(pattern).expect("a pattern of this file").replace_all(&text, replacement).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::filtered;

    #[test]
    fn what_changes_is_named_and_the_rest_stays() {
        let check = |text: &str, expected: &str| assert_eq!(filtered(text), expected);
        check("343dd74e70c7a4e2debd0a7bf5e42a92 done", "[ID] done");
        check("job e3b4dad0-8251-402f-8365-caef3b6e0fa3", "job [UUID]");
        check("ready after 284 ms on 127.0.0.1:20001", "ready after [TIME] on 127.0.0.1:[PORT]");
        check("16 requests, 2 s, 3 seqs", "16 requests, [TIME], 3 seqs");
    }
}
