//! Who sits where, with which devices and which connector.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use servelab_core::plan::Placement;

use super::*;
use crate::fixtures::{point, role};

fn roles() -> PlannedPoint {
    let mut point = point("p", &[]);
    let place =
        |instance, node, gpus: &[u32]| Placement { instance, node_gpus: BTreeMap::from([(node, gpus.to_vec())]) };
    let mut prefill = role(&["vllm", "serve"], BTreeMap::new());
    (prefill.role, prefill.count, prefill.gpus) = ("prefill".to_owned(), 2, 2);
    prefill.placement = vec![place(0, 0, &[0]), place(1, 0, &[1])];
    let mut decode = role(&["vllm", "serve"], BTreeMap::new());
    (decode.role, decode.count, decode.gpus) = ("decode".to_owned(), 1, 2);
    decode.placement = vec![place(0, 1, &[0, 1])];
    let mut router = role(&[], BTreeMap::new());
    (router.role, router.gpus) = (ROUTER.to_owned(), 0);
    point.roles = vec![prefill, decode, router];
    point
}

#[test]
fn who_sits_where() {
    let point = roles();
    assert!(is_crew(&point) && is_split(&point));
    let seats = seats(&point);
    let seen: Vec<(String, u32, Vec<u32>, u32)> =
        seats.iter().map(|seat| (seat.name(), seat.node, seat.gpus(), seat.n_gpus())).collect();
    let expected = [("prefill-0", 0, vec![0], 1), ("prefill-1", 0, vec![1], 1), ("decode-0", 1, vec![0, 1], 2)];
    assert_eq!(seen, expected.map(|(name, node, gpus, n)| (name.to_owned(), node, gpus, n)));
    let mut one = point.clone();
    one.roles.truncate(1);
    assert!(is_crew(&one));
    one.roles[0].count = 1;
    assert!(!is_crew(&one));
}

#[test]
fn connectors_and_policies() {
    let mut point = roles();
    assert_eq!(handover(&point), Handover::Params);
    for (connector, expected) in [("NixlConnector", Handover::Params), ("ExampleConnector", Handover::Shared)] {
        let config = json!({"kv_connector": connector}).to_string();
        point.roles[0].argv = vec!["vllm".to_owned(), "--kv-transfer-config".to_owned(), config];
        assert_eq!(handover(&point), expected, "{connector}");
    }
    assert_eq!(policy(&point), "round-robin");
    point.config = json!({"deploy": {"router": "session"}});
    assert_eq!(policy(&point), "session");
}

#[test]
fn devices_of_a_job() {
    assert_eq!(visible(&[2, 3], None), "2,3");
    assert_eq!(visible(&[0, 1], Some("4, 6,7")), "4,6");
    assert_eq!(visible(&[0], Some("GPU-1f,GPU-2e")), "GPU-1f");
}

#[test]
fn cores_of_servers_without_gpus() {
    let all: Vec<usize> = vec![0, 1, 4, 5, 6, 7];
    assert_eq!(cores(&all, 3, 0, 1).as_deref(), Some("0,1"));
    assert_eq!(cores(&all, 3, 1, 2).as_deref(), Some("4,5|6,7"));
    assert_eq!(cores(&[0, 1], 3, 0, 1), None, "fewer cores than ranks");
    assert_eq!(cores(&all, 0, 0, 1), None);
}

proptest! {
    #[test]
    fn no_core_is_given_twice(n in 1usize..40, sizes in prop::collection::vec(1usize..4, 1..6)) {
        let all: Vec<usize> = (0..n).collect();
        let total: usize = sizes.iter().sum();
        let mut seen = BTreeSet::new();
        let mut first = 0;
        for size in sizes {
            let given = cores(&all, total, first, size).unwrap_or_default();
            first += size;
            for core in given.split(['|', ',']).filter(|core| !core.is_empty()) {
                prop_assert!(seen.insert(core.to_owned()), "{} twice", core);
            }
        }
    }
}
