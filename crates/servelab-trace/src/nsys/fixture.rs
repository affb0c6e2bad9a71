//! Builds small exports for tests: only the tables and columns that a test is about, as the profiler does.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// An export under construction.
pub(crate) struct Fixture {
    connection: Connection,
    path: PathBuf,
}

pub(crate) const STRINGS: &str = "CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)";
pub(crate) const KERNELS: &str = "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER NOT NULL, end INTEGER NOT NULL, \
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, \
    globalPid INTEGER, demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, gridX INTEGER NOT NULL, \
    gridY INTEGER NOT NULL, gridZ INTEGER NOT NULL, graphNodeId INTEGER)";
pub(crate) const GRAPHS: &str = "CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER NOT NULL, end INTEGER NOT NULL, \
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, \
    globalPid INTEGER, graphId INTEGER NOT NULL, graphExecId INTEGER NOT NULL)";
pub(crate) const COPIES: &str = "CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER NOT NULL, end INTEGER NOT NULL, \
    deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, streamId INTEGER NOT NULL, correlationId INTEGER, \
    globalPid INTEGER, bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL)";
pub(crate) const RUNTIME: &str = "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER NOT NULL, end INTEGER NOT NULL, \
    eventClass INTEGER NOT NULL, globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL)";
pub(crate) const NVTX: &str = "CREATE TABLE NVTX_EVENTS (start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, \
    text TEXT, globalTid INTEGER, textId INTEGER, domainId INTEGER)";
pub(crate) const GPU_METRICS: &str = "CREATE TABLE GPU_METRICS (timestamp INTEGER, typeId INTEGER NOT NULL, metricId INTEGER NOT NULL, value INTEGER NOT NULL); \
    CREATE TABLE TARGET_INFO_GPU_METRICS (typeId INTEGER NOT NULL, sourceId INTEGER NOT NULL, typeName TEXT NOT NULL, \
    metricId INTEGER NOT NULL, metricName TEXT NOT NULL)";
pub(crate) const GPUS: &str = "CREATE TABLE TARGET_INFO_GPU (vmId INTEGER, id INTEGER NOT NULL, name TEXT, smCount INTEGER, \
    memoryBandwidth INTEGER, uuid TEXT)";

/// A global id of a process, or of a thread in it.
pub(crate) fn global(pid: i64, tid: i64) -> i64 {
    (1 << 48) | (pid << 24) | tid
}

impl Fixture {
    pub(crate) fn new(path: &Path, tables: &[&str]) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
        for table in tables {
            connection.execute_batch(table).unwrap();
        }
        Self { connection, path: path.to_owned() }
    }

    pub(crate) fn run(&self, sql: &str) {
        self.connection.execute_batch(sql).unwrap();
    }

    pub(crate) fn string(&self, id: i64, text: &str) {
        self.connection.execute("INSERT INTO StringIds VALUES (?1, ?2)", (id, text)).unwrap();
    }

    /// A kernel of process 7 on GPU 0, stream 7.
    pub(crate) fn kernel(&self, start: i64, end: i64, name: i64, correlation: i64) {
        self.connection
            .execute(
                "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?1, ?2, 0, 1, 7, ?3, ?4, ?5, ?5, 2, 3, 4, NULL)",
                (start, end, correlation, global(7, 0), name),
            )
            .unwrap();
    }

    /// A range of process 7, thread 70.
    pub(crate) fn range(&self, start: i64, end: i64, text: &str) {
        self.connection
            .execute("INSERT INTO NVTX_EVENTS VALUES (?1, ?2, 59, ?3, ?4, NULL, 0)", (start, end, text, global(7, 70)))
            .unwrap();
    }

    /// A call of process 7, thread 70.
    pub(crate) fn launch(&self, start: i64, end: i64, name: i64, correlation: i64) {
        self.connection
            .execute(
                "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?1, ?2, 0, ?3, ?4, ?5)",
                (start, end, global(7, 70), correlation, name),
            )
            .unwrap();
    }

    pub(crate) fn done(self) -> PathBuf {
        self.connection.close().unwrap();
        self.path
    }
}

/// A file of the samples that are not in the repository; prints why when it is absent.
pub(crate) fn sample(name: &str) -> Option<PathBuf> {
    let places = ["tests/data/samples", "../../../shared/samples/traces", "../../shared/samples/traces"];
    let found = places.map(|place| Path::new(env!("CARGO_MANIFEST_DIR")).join(place).join(name));
    if let Some(path) = found.into_iter().find(|path| path.exists()) {
        return Some(path);
    }
    println!("skipped: the sample {name} is not beside this checkout");
    None
}
