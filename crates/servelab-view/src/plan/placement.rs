//! Roles and node maps in words: `node 0: prefill[0] gpu 0-1, decode[0] gpu 2-5`. Equal neighbouring nodes share a line.

use std::collections::BTreeMap;

use servelab_core::plan::RolePlan;

/// One role in a few words: `2 × prefill, 2 GPUs each`.
pub fn role_words(role: &RolePlan) -> String {
    match (role.count, role.gpus) {
        (count, 0) => format!("{count} × {}", role.role),
        (count, gpus) => {
            let each = gpus.checked_div(count).unwrap_or(gpus);
            let plural = if each == 1 { "" } else { "s" };
            format!("{count} × {}, {each} GPU{plural}{}", role.role, if count > 1 { " each" } else { "" })
        }
    }
}

/// Which instance uses which GPUs, one line per node or run of equal nodes.
pub fn node_map(roles: &[RolePlan]) -> Vec<String> {
    let mut nodes: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for role in roles {
        for place in &role.placement {
            for (node, gpus) in &place.node_gpus {
                let name = format!("{}[{}]", role.role, place.instance);
                let words = if gpus.is_empty() { name } else { format!("{name} gpu {}", ranges(gpus)) };
                nodes.entry(*node).or_default().push(words);
            }
        }
    }
    let mut lines: Vec<(u32, u32, String)> = Vec::new();
    for (node, words) in nodes {
        let words = words.join(", ");
        match lines.last_mut() {
            Some((_, last, known)) if *known == words && last.checked_add(1) == Some(node) => *last = node,
            _ => lines.push((node, node, words)),
        }
    }
    let line = |(from, to, words)| {
        if from == to { format!("node {from}: {words}") } else { format!("nodes {from}-{to}: {words}") }
    };
    lines.into_iter().map(line).collect()
}

/// `[0, 1, 2, 5]` → `0-2,5`.
fn ranges(numbers: &[u32]) -> String {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for n in sorted {
        match runs.last_mut() {
            Some((_, last)) if n.saturating_sub(*last) <= 1 => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let words = runs.into_iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use servelab_core::plan::Placement;

    fn role(name: &str, gpus: u32, places: &[&[(u32, &[u32])]]) -> RolePlan {
        let placement = (0..)
            .zip(places)
            .map(|(instance, nodes)| Placement {
                instance,
                node_gpus: nodes.iter().map(|(node, gpus)| (*node, gpus.to_vec())).collect(),
            })
            .collect();
        let count = u32::try_from(places.len()).unwrap();
        RolePlan { role: name.into(), count, gpus, argv: vec![], env: BTreeMap::new(), placement }
    }

    #[test]
    fn maps() {
        let roles = [
            role("prefill", 4, &[&[(0, &[0, 1])], &[(1, &[0, 1])]]),
            role("decode", 4, &[&[(0, &[2, 3, 4, 5])]]),
            role("router", 0, &[&[(0, &[])]]),
        ];
        let expected = ["node 0: prefill[0] gpu 0-1, decode[0] gpu 2-5, router[0]", "node 1: prefill[1] gpu 0-1"];
        assert_eq!(node_map(&roles), expected);
        let eight: Vec<(u32, &[u32])> = (0..8).map(|node| (node, &[0, 1, 2, 3, 4, 5, 6, 7][..])).collect();
        assert_eq!(node_map(&[role("serve", 64, &[&eight])]), ["nodes 0-7: serve[0] gpu 0-7"]);
        assert_eq!(node_map(&[]), Vec::<String>::new());
    }

    #[test]
    fn words() {
        assert_eq!(role_words(&role("prefill", 4, &[&[], &[]])), "2 × prefill, 2 GPUs each");
        assert_eq!(role_words(&role("serve", 1, &[&[]])), "1 × serve, 1 GPU");
        assert_eq!(role_words(&role("router", 0, &[&[]])), "1 × router");
        assert_eq!(ranges(&[5, 0, 1, 2]), "0-2,5");
    }
}
