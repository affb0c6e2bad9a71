//! The older hash's view of a point (documents 000 and 001): the settings that the study writes, under the names of that
//! framework, plus `compat.fields` and the label as `name`.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::space::{Key, Row, Section, Space};
use crate::identity::legacy_md5_8;
use crate::study::Study;

/// Deploy settings under their older names.
const DEPLOY_NAMES: [(&str, &str); 8] = [
    ("nodes", "num_nodes"),
    ("gpus_per_node", "gpus_per_node"),
    ("tp", "tensor_parallel_size"),
    ("pp", "pipeline_parallel_size"),
    ("dp", "data_parallel_size"),
    ("dp_local", "data_parallel_size_local"),
    ("launch", "distributed_executor_backend"),
    ("replicas", "num_replicas"),
];

/// The older 8-digit hash of one labelled point.
pub fn legacy_hash(study: &Study, space: &Space, row: &Row, written: &BTreeSet<Key>, label: &str) -> String {
    let mut config = Map::new();
    if study.model.trust_remote_code {
        config.insert("trust_remote_code".into(), true.into());
    }
    for (name, value) in space.section(row, Section::Deploy) {
        if let Some((_, older)) = DEPLOY_NAMES.iter().find(|(ours, _)| *ours == name) {
            config.insert((*older).to_owned(), value.clone());
        }
    }
    for (name, value) in space.section(row, Section::Serve) {
        if written.contains(&Key { section: Section::Serve, name: name.to_owned() }) {
            config.insert(name.replace('.', "_"), value.clone());
        }
    }
    config.insert("name".into(), Value::from(label));
    // Last, so that `fields: {name: ~}` speaks for files that had no name.
    if let Some(compat) = &study.compat {
        for (name, value) in compat.fields.iter() {
            if value.is_null() {
                config.remove(name);
            } else {
                config.insert(name.to_owned(), value.clone());
            }
        }
    }
    legacy_md5_8(&config)
}
