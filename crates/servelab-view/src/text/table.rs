//! Tables: aligned columns for terminals and text files, pipes for Markdown. Cells are plain text; too wide a table wraps
//! its headers first and its text cells second, so nothing is cut off.

use super::wrap::{clean, escape_markdown, longest_piece, width, wrap};
use crate::plot::escape;

/// Spaces between columns.
const GAP: usize = 2;

/// Rows of a table on a page: a browser draws no more of them in a moment.
const MOST_HTML_ROWS: usize = 2_000;

/// Text columns are not made narrower than this.
const LEAST_TEXT: usize = 14;

/// On which side a column's cells line up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    header: String,
    align: Align,
}

/// A column of text.
pub fn left(header: impl Into<String>) -> Column {
    Column { header: header.into(), align: Align::Left }
}

/// A column of numbers.
pub fn right(header: impl Into<String>) -> Column {
    Column { header: header.into(), align: Align::Right }
}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, further ones are dropped.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| clean(&cell.into())).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Leaves out columns in which no row has anything to say.
    pub fn without_empty_columns(self) -> Self {
        let says = |cell: &String| !cell.is_empty() && cell != super::number::ABSENT;
        let keep: Vec<bool> =
            (0..self.columns.len()).map(|idx| self.rows.iter().any(|row| row.get(idx).is_some_and(says))).collect();
        fn pick<T>(items: Vec<T>, keep: &[bool]) -> Vec<T> {
            items.into_iter().zip(keep).filter(|(_, keep)| **keep).map(|(item, _)| item).collect()
        }
        Self { columns: pick(self.columns, &keep), rows: self.rows.into_iter().map(|row| pick(row, &keep)).collect() }
    }

    /// The narrowest width at which only headers are wrapped.
    pub fn least_width(&self) -> usize {
        total(&self.tight_widths())
    }

    /// Aligned text, one line per row, or more where cells had to be wrapped. Ends with a newline unless empty.
    pub fn to_text(&self, limit: Option<usize>) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let widths = self.widths(limit);
        let headers: Vec<String> = self.columns.iter().map(|column| column.header.clone()).collect();
        let mut out = self.text_row(&headers, &widths);
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        out.push_str(&self.text_row(&rules, &widths));
        self.rows.iter().for_each(|row| out.push_str(&self.text_row(row, &widths)));
        out
    }

    /// A Markdown table. Ends with a newline unless empty.
    pub fn to_markdown(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(self.columns.iter().map(|column| escape_markdown(&column.header)).collect());
        let rule = |column: &Column| if column.align == Align::Right { "---:" } else { "---" }.to_owned();
        out.push_str(&line(self.columns.iter().map(rule).collect()));
        for row in &self.rows {
            out.push_str(&line(row.iter().map(|cell| escape_markdown(cell)).collect()));
        }
        out
    }

    /// An HTML table in a box that scrolls by itself. The first column names its row.
    pub fn to_html(&self) -> String {
        if self.columns.is_empty() {
            return String::new();
        }
        let class = |idx: usize| {
            let is_right = self.columns.get(idx).is_some_and(|column| column.align == Align::Right);
            if is_right { " class=\"n\"" } else { "" }
        };
        let mut out = String::from("<div class=\"box\" tabindex=\"0\"><table>\n<thead><tr>");
        for (idx, column) in self.columns.iter().enumerate() {
            out.push_str(&format!("<th scope=\"col\"{}>{}</th>", class(idx), escape(&column.header)));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in self.rows.iter().take(MOST_HTML_ROWS) {
            out.push_str("<tr>");
            for (idx, cell) in row.iter().enumerate() {
                out.push_str(&format!("<td{}>{}</td>", class(idx), escape(cell)));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        let rest = self.rows.len().saturating_sub(MOST_HTML_ROWS);
        if rest > 0 {
            out.push_str(&format!("<p>… and {} more rows, in report.txt.</p>\n", super::number::count(rest as u64)));
        }
        out
    }

    fn text_row(&self, cells: &[String], widths: &[usize]) -> String {
        let wrapped: Vec<Vec<String>> = cells
            .iter()
            .zip(widths)
            .map(|(cell, limit)| if width(cell) <= *limit { vec![cell.clone()] } else { wrap(cell, *limit) })
            .collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(0);
        let mut out = String::new();
        for line in 0..height {
            let mut text = String::new();
            for ((parts, limit), column) in wrapped.iter().zip(widths).zip(&self.columns) {
                let part = parts.get(line).map_or("", String::as_str);
                let pad = " ".repeat(limit.saturating_sub(width(part)));
                match column.align {
                    Align::Left => text.extend([part, &pad]),
                    Align::Right => text.extend([&pad, part]),
                }
                text.push_str(&" ".repeat(GAP));
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }

    fn cell_width(&self, idx: usize) -> usize {
        self.rows.iter().filter_map(|row| row.get(idx)).map(|cell| width(cell)).max().unwrap_or(0)
    }

    fn tight_widths(&self) -> Vec<usize> {
        let tight = |(idx, column): (usize, &Column)| self.cell_width(idx).max(longest_piece(&column.header));
        self.columns.iter().enumerate().map(tight).collect()
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let cells: Vec<usize> = (0..self.columns.len()).map(|idx| self.cell_width(idx)).collect();
        let natural: Vec<usize> =
            self.columns.iter().zip(&cells).map(|(column, cells)| width(&column.header).max(*cells)).collect();
        let Some(limit) = limit.filter(|limit| total(&natural) > *limit) else { return natural };
        let mut widths = self.tight_widths();
        let mut spare = limit.saturating_sub(total(&widths));
        for (width, natural) in widths.iter_mut().zip(&natural) {
            let more = natural.saturating_sub(*width).min(spare);
            *width += more;
            spare -= more;
        }
        while total(&widths) > limit {
            let shrinkable = widths.iter_mut().zip(&self.columns).filter(|(_, column)| column.align == Align::Left);
            let widest = shrinkable.map(|(width, _)| width).filter(|width| **width > LEAST_TEXT).max();
            let Some(widest) = widest else { break };
            *widest -= 1;
        }
        widths
    }
}

fn total(widths: &[usize]) -> usize {
    widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Table {
        let mut table = Table::new([left("Label"), right("max_num_seqs"), left("Why")]);
        table.row(["batch_1", "8,192", "a reason of many words that has to be wrapped"]);
        table.row(["日本", "64"]);
        table
    }

    #[test]
    fn aligned_text() {
        let expected = "\
Label    max_num_seqs  Why
───────  ────────────  ─────────────────────────────────────────────
batch_1         8,192  a reason of many words that has to be wrapped
日本               64
";
        assert_eq!(sample().to_text(None), expected);
    }

    #[test]
    fn narrow_text_wraps_headers_then_cells() {
        let text = sample().to_text(Some(40));
        let expected = "\
Label     max_  Why
          num_
          seqs
───────  ─────  ────────────────────────
batch_1  8,192  a reason of many words
                that has to be wrapped
日本        64
";
        assert_eq!(text, expected);
    }

    #[test]
    fn markdown() {
        let expected = "\
| Label | max_num_seqs | Why |
| --- | ---: | --- |
| batch_1 | 8,192 | a reason of many words that has to be wrapped |
| 日本 | 64 |  |
";
        assert_eq!(sample().to_markdown(), expected);
    }

    #[test]
    fn empty_columns_can_go() {
        let mut table = Table::new([left("A"), left("B"), left("C")]);
        table.row(["1", "-", ""]);
        table.row(["2", "", "x"]);
        assert_eq!(table.without_empty_columns().to_markdown(), "| A | C |\n| --- | --- |\n| 1 |  |\n| 2 | x |\n");
        assert_eq!(Table::default().to_text(Some(3)), "");
    }

    proptest! {
        #[test]
        fn never_panics(cells in prop::collection::vec(prop::collection::vec(".{0,30}", 0..6), 0..6), limit in 0usize..60) {
            let mut table = Table::new([left("a b"), right("c_d"), left("e")]);
            cells.into_iter().for_each(|row| table.row(row));
            let text = table.to_text(Some(limit));
            prop_assert!(text.lines().count() >= 2);
            table.to_markdown();
        }
    }
}
