//! One file per command: what was typed, what it does. Printing goes through `Ui`.

pub(crate) mod bench;
pub(crate) mod best;
pub(crate) mod calibrate;
pub(crate) mod cancel;
pub(crate) mod compare;
pub(crate) mod dataset;
pub(crate) mod docs;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod logs;
pub(crate) mod plan;
pub(crate) mod predict;
pub(crate) mod progress;
pub(crate) mod rank;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod select;
pub(crate) mod sim;
pub(crate) mod status;
pub(crate) mod stored;
pub(crate) mod submit;
pub(crate) mod trace;
pub(crate) mod traces_of_points;
