//! Texts of an export: `StringIds` holds each text once, rows refer to it by number. Only texts that some row needs are
//! fetched, so that the many names of NVTX ranges do not fill memory.

use std::collections::HashMap;

use rusqlite::{Connection, Statement};

use crate::names::{NameId, Names};

/// Past this many distinct texts, the ones seen first are fetched again when they return.
const MOST_CACHED: usize = 1 << 16;

/// Texts by the numbers of the file, as [`NameId`]s.
#[derive(Debug, Default)]
pub(super) struct FileNames {
    by_file_id: HashMap<i64, NameId>,
    pub(super) names: Names,
}

impl FileNames {
    /// Number of the text that the file calls `file_id`; a missing text is `?`.
    pub(super) fn of(&mut self, lookup: &mut Lookup<'_>, file_id: i64) -> NameId {
        if let Some(id) = self.by_file_id.get(&file_id) {
            return *id;
        }
        let id = match lookup.text(file_id) {
            Some(text) => self.names.intern(&text),
            None => self.names.intern("?"),
        };
        if self.by_file_id.len() >= MOST_CACHED {
            self.by_file_id.clear();
        }
        self.by_file_id.insert(file_id, id);
        id
    }
}

/// Fetches texts from `StringIds`.
pub(super) struct Lookup<'c> {
    statement: Option<Statement<'c>>,
    /// Where `id` is no primary key, every fetch would read the whole table: it is then read once, up to a limit.
    loaded: HashMap<i64, Box<str>>,
    pub(super) n_missing: u64,
}

impl<'c> Lookup<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        let mut lookup = Self { statement: None, loaded: HashMap::new(), n_missing: 0 };
        let is_key = connection
            .query_row("SELECT count(*) FROM pragma_table_info('StringIds') WHERE name = 'id' AND pk = 1", [], |row| {
                row.get::<_, i64>(0)
            })
            .is_ok_and(|n| n == 1);
        if is_key {
            lookup.statement = connection.prepare("SELECT value FROM StringIds WHERE id = ?1").ok();
        } else if let Ok(mut statement) = connection.prepare("SELECT id, value FROM StringIds")
            && let Ok(mut rows) = statement.query([])
        {
            while let Ok(Some(row)) = rows.next() {
                if let (Ok(id), Ok(Ok(text))) = (row.get::<_, i64>(0), row.get_ref(1).map(|value| value.as_bytes())) {
                    lookup.loaded.insert(id, String::from_utf8_lossy(text).into());
                }
                if lookup.loaded.len() >= 16 * MOST_CACHED {
                    break;
                }
            }
        }
        lookup
    }

    pub(super) fn text(&mut self, id: i64) -> Option<String> {
        let found = match &mut self.statement {
            Some(statement) => statement
                .query_row([id], |row| {
                    Ok(row.get_ref(0)?.as_bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
                })
                .ok()
                .and_then(Result::ok),
            None => self.loaded.get(&id).map(|text| text.to_string()),
        };
        if found.is_none() {
            self.n_missing += 1;
        }
        found
    }
}
