//! Collectives of several ranks side by side: the shortest duration of the same collective is what moving the data takes,
//! the rest is waiting. Durations are compared, never instants, so no common clock is needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rank::RankAnalysis;

/// Calls that are looked at to see which ranks meet.
const LOOKED_AT: usize = 400;

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
    /// In how many of those at which one rank alone had the shortest duration each rank took part.
    pub seen: Vec<u64>,
    /// How many there are of these.
    pub decided: u64,
    /// True when some calls named no group and were taken as those of all ranks.
    pub is_assumed: bool,
}

impl Matched {
    /// Place of the rank that others wait for, with its share of last arrivals; `None` when nobody stands out.
    pub fn straggler(&self) -> Option<(usize, f64)> {
        let waits = self.wait_ns.iter().zip(&self.seen).enumerate().filter(|(_, (_, seen))| **seen > 0);
        let (place, _) = waits.min_by_key(|(_, (wait, _))| **wait)?;
        let (last, seen) = (*self.last.get(place)?, *self.seen.get(place)?);
        let all: u64 = self.seen.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let (share, fair) = (last as f64 / seen.max(1) as f64, self.decided as f64 / all.max(1) as f64);
        (share > fair).then_some((place, share))
    }
}

/// Families whose kernels do not all last until the slowest rank has come: waiting cannot be read off them.
fn is_collective(kind: &str) -> bool {
    !matches!(kind, "send_recv" | "notify" | "barrier" | "gather" | "scatter")
}

type Key = (Arc<str>, Arc<str>, Option<Arc<str>>);

/// The calls of one rank, in order.
type Calls = Vec<Call>;

#[derive(Debug, Clone, Copy)]
struct Call {
    seq: Option<u64>,
    dur_ns: i64,
    start_ns: i64,
}

/// Matches collectives; `Err` says why that is impossible.
pub fn matched(ranks: &[RankAnalysis]) -> Result<Matched, String> {
    if ranks.len() < 2 {
        return Err("one rank cannot be compared with others: give the traces of all ranks".to_owned());
    }
    // By rank: the calls of one key in order.
    let mut keys: BTreeMap<Key, Vec<Calls>> = BTreeMap::new();
    for (place, rank) in ranks.iter().enumerate() {
        for call in rank.calls.iter().filter(|call| is_collective(&call.kind)) {
            let key = (Arc::clone(&call.family), Arc::clone(&call.kind), call.members.clone());
            let lists = keys.entry(key).or_insert_with(|| vec![Vec::new(); ranks.len()]);
            if let Some(list) = lists.get_mut(place) {
                list.push(Call { seq: call.seq, dur_ns: call.dur_ns, start_ns: call.start_ns });
            }
        }
    }
    let mut out = Matched {
        collectives: 0,
        transfer_ns: 0,
        wait_ns: vec![0; ranks.len()],
        last: vec![0; ranks.len()],
        seen: vec![0; ranks.len()],
        decided: 0,
        is_assumed: false,
    };
    let mut refused: Option<String> = None;
    for ((family, kind, group), lists) in &keys {
        let present: Vec<(usize, &Calls)> = lists.iter().enumerate().filter(|(_, list)| !list.is_empty()).collect();
        if present.len() < 2 {
            continue;
        }
        if group.is_some() && present.iter().all(|(_, list)| list.iter().all(|call| call.seq.is_some())) {
            let mut by_seq: BTreeMap<u64, Vec<(usize, i64)>> = BTreeMap::new();
            for (place, list) in &present {
                for call in *list {
                    by_seq.entry(call.seq.unwrap_or_default()).or_default().push((*place, call.dur_ns));
                }
            }
            by_seq.values().for_each(|calls| out.add(calls));
            continue;
        }
        let parties = if group.is_some() {
            vec![present]
        } else {
            let met = parties(ranks, &present);
            out.is_assumed |= met.is_none();
            met.unwrap_or_else(|| vec![present])
        };
        for party in parties {
            let count = party.first().map_or(0, |(_, list)| list.len());
            if party.iter().any(|(_, list)| list.len() != count) {
                let counts: Vec<String> = party.iter().map(|(_, list)| list.len().to_string()).collect();
                let shown = counts.get(..8).unwrap_or(&counts).join(", ");
                refused = Some(format!("the ranks show different numbers of {family} {kind}: {shown}"));
                continue;
            }
            for idx in 0..count {
                let calls: Vec<(usize, i64)> =
                    party.iter().filter_map(|(place, list)| Some((*place, list.get(idx)?.dur_ns))).collect();
                out.add(&calls);
            }
        }
    }
    if out.collectives == 0 {
        let has_calls = ranks.iter().any(|rank| !rank.calls.is_empty());
        let is_peer_to_peer = ranks.iter().flat_map(|rank| &rank.calls).all(|call| !is_collective(&call.kind));
        return Err(refused.unwrap_or_else(|| {
            if has_calls && is_peer_to_peer {
                "only sends, receives and the like were seen: waiting cannot be read off their durations".to_owned()
            } else {
                "no collective was seen on two ranks".to_owned()
            }
        }));
    }
    Ok(out)
}

type Present<'a> = Vec<(usize, &'a Calls)>;

/// Which ranks take part in calls that name no group: those that are inside at the same time, as ranks of one collective must
/// be. Clocks of one host are compared; `None` where there is no such clock or nobody meets.
fn parties<'a>(ranks: &[RankAnalysis], present: &Present<'a>) -> Option<Vec<Present<'a>>> {
    let meta = |place: usize| ranks.get(place).map(|rank| &rank.meta);
    let host = present.first().and_then(|(place, _)| meta(*place)).map(|meta| meta.host.clone())?;
    let bases: Vec<i64> = present
        .iter()
        .map(|(place, _)| meta(*place).filter(|meta| meta.host == host).and_then(|meta| meta.base_unix_ns))
        .collect::<Option<_>>()?;
    let meet = |a: usize, b: usize| {
        let ((_, first), (_, second)) = (present.get(a)?, present.get(b)?);
        let (here, there) = (bases.get(a)?, bases.get(b)?);
        let pairs = first.iter().zip(second.iter()).take(LOOKED_AT);
        let n = pairs.len();
        let together = pairs.filter(|(x, y)| {
            let (x_start, y_start) = (x.start_ns.saturating_add(*here), y.start_ns.saturating_add(*there));
            x_start < y_start.saturating_add(y.dur_ns) && y_start < x_start.saturating_add(x.dur_ns)
        });
        Some(2 * together.count() > n)
    };
    // Each rank joins the first party whose first rank it meets.
    let mut out: Vec<(usize, Present<'a>)> = Vec::new();
    for (idx, own) in present.iter().enumerate() {
        match out.iter_mut().find(|(first, _)| meet(*first, idx) == Some(true)) {
            Some((_, party)) => party.push(*own),
            None => out.push((idx, vec![*own])),
        }
    }
    let met: Vec<Present<'a>> = out.into_iter().map(|(_, party)| party).filter(|party| party.len() > 1).collect();
    (!met.is_empty()).then_some(met)
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
        self.decided += u64::from(is_alone);
        for (place, dur_ns) in calls {
            if let Some(seen) = self.seen.get_mut(*place).filter(|_| is_alone) {
                *seen += 1;
            }
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
            members: seq.map(|_| Arc::from("0")),
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
        let expected = Matched {
            collectives: 3,
            transfer_ns: 23,
            wait_ns: vec![2, 22],
            last: vec![2, 1],
            seen: vec![3, 3],
            decided: 3,
            is_assumed: true,
        };
        assert_eq!(found, expected);
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
    fn replicas_on_one_clock_are_told_apart_by_when_they_meet() {
        // Ranks 0 and 1 meet, ranks 2 and 3 meet a microsecond later.
        let mut ranks =
            [10, 12, 40, 44].map(|dur_ns| rank(&[("all_reduce", None, dur_ns), ("all_reduce", None, dur_ns)]));
        for (idx, rank) in ranks.iter_mut().enumerate() {
            rank.meta.base_unix_ns = Some(if idx < 2 { 0 } else { 1000 });
            for (number, call) in rank.calls.iter_mut().enumerate() {
                call.start_ns = 100_000 * i64::try_from(number).unwrap();
            }
        }
        let found = matched(&ranks).unwrap();
        assert_eq!((found.wait_ns.as_slice(), found.is_assumed), ([0, 4, 0, 8].as_slice(), false));
        // Without a common clock all four count as one group, and that is said.
        ranks[3].meta.base_unix_ns = None;
        let found = matched(&ranks).unwrap();
        assert_eq!((found.wait_ns.as_slice(), found.is_assumed), ([0, 4, 60, 68].as_slice(), true));
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
