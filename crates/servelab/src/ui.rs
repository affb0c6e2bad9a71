//! The only place that prints. stdout is data, stderr is talk; colour and bars appear on a terminal only.

use std::io::{IsTerminal as _, Write as _};

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

    /// A line of talk.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            self.always(text);
        }
    }

    /// A line of talk for those who asked for more.
    pub(crate) fn detail(self, text: &str) {
        if self.verbose > 0 {
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

    /// True when nothing but errors should be said.
    pub(crate) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Width for tables on stdout; files and pipes get a generous one.
    pub(crate) fn width(self) -> usize {
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        match columns {
            Some(columns) if std::io::stdout().is_terminal() => columns,
            _ => 120,
        }
    }
}
