//! Facts beside the events: devices, process groups, versions. Only what is small is kept.

use std::collections::BTreeMap;

use serde_json::Value;

use super::scan::{unescape, unquoted};
use crate::model::{DeviceFacts, RankMeta};

/// Longest text of a fact that is kept.
const MAX_FACT_BYTES: usize = 200;

/// Takes one header value.
pub fn header(meta: &mut RankMeta, key: &[u8], raw: &[u8]) {
    match key {
        b"distributedInfo" => {
            if let Some(Value::Object(info)) = json(raw) {
                distributed(meta, &info);
            }
        }
        b"deviceProperties" => {
            if let Some(Value::Array(devices)) = json(raw) {
                for (idx, device) in devices.iter().enumerate() {
                    let number = device["id"].as_u64().unwrap_or(idx as u64);
                    let Ok(number) = u32::try_from(number) else { continue };
                    let multiprocessors = device["numSms"].as_u64().and_then(|n| u32::try_from(n).ok());
                    let name = device["name"].as_str().unwrap_or_default().trim().to_owned();
                    meta.devices
                        .insert(number, DeviceFacts { name, multiprocessors: multiprocessors.filter(|n| *n > 0) });
                }
            }
        }
        b"baseTimeNanoseconds" => meta.base_unix_ns = std::str::from_utf8(raw).ok().and_then(|text| text.parse().ok()),
        b"host_name" => meta.host = Some(text(raw)).filter(|host| !host.is_empty()),
        _ if raw.len() <= MAX_FACT_BYTES && !raw.starts_with(b"{") && !raw.starts_with(b"[") => {
            meta.facts.insert(String::from_utf8_lossy(key).into_owned(), text(raw));
        }
        _ => {}
    }
}

fn distributed(meta: &mut RankMeta, info: &serde_json::Map<String, Value>) {
    let number = |key: &str| {
        let value = info.get(key)?;
        let value = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u32::try_from(value).ok()
    };
    if let Some(rank) = number("rank") {
        meta.rank = Some(rank);
        meta.rank_source = Some("content");
    }
    meta.world_size = number("world_size").or(meta.world_size);
    let word = |key: &str| info.get(key).and_then(Value::as_str).map(str::to_owned);
    meta.backend = word("backend").or(meta.backend.take());
    if let Some(version) = word("nccl_version") {
        meta.facts.insert("nccl_version".to_owned(), version);
    }
    let groups = info.get("pg_config").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut found = BTreeMap::new();
    for group in groups {
        let Some(name) = group["pg_name"].as_str() else { continue };
        let ranks = group["ranks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ranks = ranks.iter().filter_map(|rank| u32::try_from(rank.as_u64()?).ok()).collect();
        found.insert(name.to_owned(), (group["pg_desc"].as_str().unwrap_or_default().to_owned(), ranks));
    }
    meta.groups.append(&mut found);
}

/// JSON, also with control characters inside its strings.
fn json(raw: &[u8]) -> Option<Value> {
    serde_json::from_slice(raw).ok().or_else(|| {
        let clean: Vec<u8> = raw.iter().map(|b| if *b < 0x20 { b' ' } else { *b }).collect();
        serde_json::from_str(&String::from_utf8_lossy(&clean)).ok()
    })
}

fn text(raw: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(unquoted(raw))).into_owned()
}
