//! Shapes that a `topology:` design names, as deploy settings with labels.

use serde_json::{Value, json};

use super::shape::{parse_ratio, parse_shape};
use crate::ordered::OrderedMap;
use crate::study::{DeployMode, Topology};

/// The shapes that a topology names, with their labels.
pub(super) fn topology_variants(topology: &Topology) -> Result<Vec<(String, OrderedMap<Value>)>, String> {
    let mut out: Vec<(String, OrderedMap<Value>)> = Vec::new();
    let pd_settings = |p: (u32, u32, Option<u32>), d: (u32, u32, Option<u32>)| {
        let mut settings = OrderedMap::default();
        settings.insert("mode", json!("pd"));
        for (prefix, (count, tp, dp)) in [("p", p), ("d", d)] {
            settings.insert(format!("{prefix}.count"), json!(count));
            settings.insert(format!("{prefix}.tp"), json!(tp));
            if let Some(dp) = dp {
                settings.insert(format!("{prefix}.dp"), json!(dp));
            }
        }
        settings
    };
    let wanted = topology.mode;
    let mixed = |what: &str, needs: &str| format!("{what} needs `mode: {needs}`");
    for ratio in topology.ratios.iter() {
        if wanted == Some(DeployMode::Collocated) {
            return Err(mixed("`p:d`", "pd"));
        }
        let (p, d) = parse_ratio(ratio)?;
        let (p_tp, d_tp) = (topology.p.tp.unwrap_or(1), topology.d.tp.unwrap_or(1));
        let label = format!("{p}P-TP{p_tp}+{d}D-TP{d_tp}");
        out.push((label, pd_settings((p, p_tp, topology.p.dp), (d, d_tp, topology.d.dp))));
    }
    for text in topology.shapes.iter() {
        let (mode, first, decode) = parse_shape(text)?;
        if wanted.is_some_and(|wanted| wanted != mode) {
            return Err(format!("the shape `{text}` does not fit the given `mode`"));
        }
        match decode {
            Some(decode) => {
                let label = format!("{}P-TP{}+{}D-TP{}", first.count, first.tp, decode.count, decode.tp);
                out.push((label, pd_settings((first.count, first.tp, None), (decode.count, decode.tp, None))));
            }
            None => out.push(collocated(first.count, first.tp)),
        }
    }
    for tp in topology.tp.iter().copied() {
        if wanted == Some(DeployMode::Pd) {
            return Err(mixed("`tp`", "collocated"));
        }
        let gpus = topology.gpus.unwrap_or(tp);
        if tp == 0 || !gpus.is_multiple_of(tp) {
            return Err(format!("{gpus} GPUs cannot be filled with servers of tp {tp}"));
        }
        out.push(collocated(gpus / tp, tp));
    }
    Ok(out)
}

fn collocated(replicas: u32, tp: u32) -> (String, OrderedMap<Value>) {
    let mut settings = OrderedMap::default();
    settings.insert("mode", json!("collocated"));
    settings.insert("replicas", json!(replicas));
    settings.insert("tp", json!(tp));
    (format!("{replicas}xTP{tp}"), settings)
}
