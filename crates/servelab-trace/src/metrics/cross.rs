//! Collectives of several ranks side by side: the shortest duration of the same collective is what moving the data takes,
//! the rest is waiting. Durations are compared, never instants, so no common clock is needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rank::RankAnalysis;

/// What matching gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Matched {
    /// Collectives seen by at least two ranks.
    pub collectives: u64,
    /// Σ of the shortest durations.
    pub transfer_ns: i64,
    /// Σ of waiting, by place in the list of ranks.
    pub wait_ns: Vec<i64>,
    /// At how many collectives each rank had the (strictly) shortest duration.
    pub last: Vec<u64>,
}

impl Matched {
    /// Place of the rank that others wait for, with its share of last arrivals; `None` when nobody stands out.
    pub fn straggler(&self) -> Option<(usize, f64)> {
        let (place, _) = self.wait_ns.iter().enumerate().min_by_key(|(_, wait)| **wait)?;
        let last = *self.last.get(place)?;
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let (share, fair) = (last as f64 / self.collectives.max(1) as f64, 1.0 / self.wait_ns.len().max(1) as f64);
        (share > fair).then_some((place, share))
    }
}

/// Families whose kernels do not all last until the slowest rank has come: waiting cannot be read off them.
fn is_collective(kind: &str) -> bool {
    !matches!(kind, "send_recv" | "notify" | "barrier" | "gather" | "scatter")
}

type Key = (Arc<str>, Arc<str>, Option<Arc<str>>);

/// Sequence number and duration of the calls of one rank, in order.
type Calls = Vec<(Option<u64>, i64)>;

/// Matches collectives; `Err` says why that is impossible.
pub fn matched(ranks: &[RankAnalysis]) -> Result<Matched, String> {
    if ranks.len() < 2 {
        return Err("one rank cannot be compared with others: give the traces of all ranks".to_owned());
    }
    // By rank: the calls of one key in order.
    let mut keys: BTreeMap<Key, Vec<Calls>> = BTreeMap::new();
    for (place, rank) in ranks.iter().enumerate() {
        for call in rank.calls.iter().filter(|call| is_collective(&call.kind)) {
            let key = (Arc::clone(&call.family), Arc::clone(&call.kind), call.group.clone());
            let lists = keys.entry(key).or_insert_with(|| vec![Vec::new(); ranks.len()]);
            if let Some(list) = lists.get_mut(place) {
                list.push((call.seq, call.dur_ns));
            }
        }
    }
    let mut out = Matched { collectives: 0, transfer_ns: 0, wait_ns: vec![0; ranks.len()], last: vec![0; ranks.len()] };
    let mut refused: Option<String> = None;
    for ((family, kind, group), lists) in &keys {
        let present: Vec<(usize, &Calls)> = lists.iter().enumerate().filter(|(_, list)| !list.is_empty()).collect();
        if present.len() < 2 {
            continue;
        }
        if group.is_some() && present.iter().all(|(_, list)| list.iter().all(|(seq, _)| seq.is_some())) {
            let mut by_seq: BTreeMap<u64, Vec<(usize, i64)>> = BTreeMap::new();
            for (place, list) in &present {
                for (seq, dur_ns) in *list {
                    by_seq.entry(seq.unwrap_or_default()).or_default().push((*place, *dur_ns));
                }
            }
            by_seq.values().for_each(|calls| out.add(calls));
            continue;
        }
        let count = present.first().map_or(0, |(_, list)| list.len());
        if present.iter().any(|(_, list)| list.len() != count) {
            let counts: Vec<String> = present.iter().map(|(_, list)| list.len().to_string()).collect();
            let shown = counts.get(..8).unwrap_or(&counts).join(", ");
            refused = Some(format!("the ranks show different numbers of {family} {kind}: {shown}"));
            continue;
        }
        for idx in 0..count {
            let calls: Vec<(usize, i64)> =
                present.iter().filter_map(|(place, list)| Some((*place, list.get(idx)?.1))).collect();
            out.add(&calls);
        }
    }
    if out.collectives == 0 {
        return Err(refused.unwrap_or_else(|| "no collective was seen on two ranks".to_owned()));
    }
    Ok(out)
}

impl Matched {
    fn add(&mut self, calls: &[(usize, i64)]) {
        let Some(shortest) = calls.iter().map(|(_, dur_ns)| *dur_ns).min() else { return };
        if calls.len() < 2 {
            return;
        }
        self.collectives += 1;
        self.transfer_ns = self.transfer_ns.saturating_add(shortest);
        let is_alone = calls.iter().filter(|(_, dur_ns)| *dur_ns == shortest).count() == 1;
        for (place, dur_ns) in calls {
            if let Some(wait) = self.wait_ns.get_mut(*place) {
                *wait = wait.saturating_add(dur_ns - shortest);
            }
            if let Some(last) = self.last.get_mut(*place).filter(|_| is_alone && *dur_ns == shortest) {
                *last += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use servelab_core::trace::Place;

    use super::super::rank::CommCall;
    use super::*;

    fn rank(calls: &[(&str, Option<u64>, i64)]) -> RankAnalysis {
        let calls = calls.iter().enumerate().map(|(idx, (kind, seq, dur_ns))| CommCall {
            family: Arc::from("nccl"),
            library: Arc::from("nccl"),
            kind: Arc::from(*kind),
            group: seq.map(|_| Arc::from("0")),
            group_size: None,
            seq: *seq,
            bytes: None,
            start_ns: i64::try_from(idx).unwrap(),
            dur_ns: *dur_ns,
            step: None,
            place: Place::Device,
        });
        RankAnalysis { calls: calls.collect(), ..RankAnalysis::default() }
    }

    #[test]
    fn the_shortest_is_transfer_and_the_rest_is_waiting() {
        let ranks = [
            rank(&[
                ("all_reduce", None, 10),
                ("all_gather", None, 5),
                ("all_reduce", None, 10),
                ("send_recv", None, 99),
            ]),
            rank(&[("all_reduce", None, 30), ("all_gather", None, 7), ("all_reduce", None, 8)]),
        ];
        let found = matched(&ranks).unwrap();
        assert_eq!(found, Matched { collectives: 3, transfer_ns: 23, wait_ns: vec![2, 22], last: vec![2, 1] });
        let (place, share) = found.straggler().unwrap();
        assert!(place == 0 && (share - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn sequence_numbers_match_what_order_would_not() {
        let ranks =
            [rank(&[("all_reduce", Some(7), 10), ("all_reduce", Some(8), 20)]), rank(&[("all_reduce", Some(8), 50)])];
        assert_eq!(matched(&ranks).unwrap().wait_ns, [0, 30]);
    }

    #[test]
    fn what_cannot_be_matched_says_why() {
        let check = |ranks: &[RankAnalysis], expected: &str| {
            let reason = matched(ranks).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        };
        check(&[rank(&[])], "one rank");
        check(&[rank(&[]), rank(&[])], "no collective");
        let two = [rank(&[("all_reduce", None, 1), ("all_reduce", None, 1)]), rank(&[("all_reduce", None, 1)])];
        check(&two, "different numbers of nccl all_reduce: 2, 1");
        let even = [rank(&[("all_reduce", None, 5)]), rank(&[("all_reduce", None, 5)])];
        assert_eq!(matched(&even).unwrap().straggler(), None);
    }
}
