//! The only place that prints. stdout is data, stderr is talk; colour and bars appear on a terminal only.

use std::io::{IsTerminal as _, Write as _};

/// Columns of a terminal that does not say.
const FALLBACK_WIDTH: usize = 110;

/// Where a command talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    quiet: bool,
    verbose: u8,
}

impl Ui {
    pub(crate) fn new(quiet: bool, verbose: u8) -> Self {
        Self { quiet, verbose }
    }

    /// Data for stdout, exactly as given plus a line end when there is none. A closed pipe is the reader's choice.
    pub(crate) fn data(self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        if !text.ends_with('\n') {
            let _ = out.write_all(b"\n");
        }
        let _ = out.flush();
    }

    /// Data for stdout without any change.
    pub(crate) fn raw(self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// A line of talk.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// A line that `--quiet` does not silence: errors and warnings.
    pub(crate) fn always(self, text: &str) {
        let mut err = std::io::stderr().lock();
        let _ = writeln!(err, "{text}");
    }

    /// True when progress bars make sense.
    pub(crate) fn live(self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// True when more was asked for.
    pub(crate) fn is_verbose(self) -> bool {
        self.verbose > 0
    }

    /// Width for tables on stdout; files and pipes wrap nothing.
    pub(crate) fn width(self) -> Option<usize> {
        if !std::io::stdout().is_terminal() {
            return None;
        }
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        Some(columns.unwrap_or(FALLBACK_WIDTH))
    }
}
