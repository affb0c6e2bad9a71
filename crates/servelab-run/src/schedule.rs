//! The order of a run: cells grouped by server start, starts grouped in repeat blocks, both in seeded random order or as
//! written. Every item is ordered by a hash of its own name, so that leaving cells out (because they are finished) never
//! changes the order of the others.

use servelab_core::plan::{Plan, PlannedCell, PlannedPoint};
use servelab_core::study::Order;

/// How to order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordering {
    /// Random blocks or as written.
    pub order: Order,
    /// Seed of the random order.
    pub seed: u64,
    /// All repeats of a point on one server start.
    pub same_server: bool,
}

/// One server start and what runs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerStart<'a> {
    /// The point.
    pub point: &'a PlannedPoint,
    /// Repeat block; 0 with `same_server`.
    pub block: u32,
    /// Its cells in the order in which they run.
    pub cells: Vec<&'a PlannedCell>,
}

/// The starts that `cells` need, in order. Cells whose point is not in the plan are left out.
pub fn starts<'a>(plan: &'a Plan, cells: &[&'a PlannedCell], ordering: Ordering) -> Vec<ServerStart<'a>> {
    let block_of = |cell: &PlannedCell| if ordering.same_server { 0 } else { cell.repeat };
    let mut starts: Vec<ServerStart<'a>> = Vec::new();
    let mut blocks: Vec<u32> = cells.iter().map(|cell| block_of(cell)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    for block in blocks {
        let first = starts.len();
        for point in &plan.points {
            let mut of_start: Vec<&PlannedCell> =
                cells.iter().copied().filter(|cell| cell.point == point.id && block_of(cell) == block).collect();
            if of_start.is_empty() {
                continue;
            }
            if ordering.order == Order::RandomBlocks {
                of_start.sort_by_key(|cell| key(ordering.seed, block, cell.id.as_str()));
            }
            starts.push(ServerStart { point, block, cells: of_start });
        }
        if let Some(of_block) = starts.get_mut(first..).filter(|_| ordering.order == Order::RandomBlocks) {
            of_block.sort_by_key(|start| key(ordering.seed, block, start.point.id.as_str()));
        }
    }
    starts
}

/// FNV-1a over the name, then the finaliser of SplitMix64: neighbouring names land far apart.
fn key(seed: u64, block: u32, name: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(block).rotate_left(32);
    let hash = name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{cell, plan, point};

    fn sample() -> Plan {
        let points: Vec<PlannedPoint> = ["a", "b", "c", "d"].map(|name| point(name, &[])).into();
        let mut cells = Vec::new();
        for point in &points {
            for concurrency in [1, 2, 4, 8] {
                for repeat in 0..3 {
                    cells.push(cell(point, concurrency, repeat));
                }
            }
        }
        plan(points, cells)
    }

    fn ordering(order: Order, seed: u64, same_server: bool) -> Ordering {
        Ordering { order, seed, same_server }
    }

    fn names(starts: &[ServerStart<'_>]) -> Vec<(u32, String)> {
        starts.iter().map(|start| (start.block, start.point.id.to_string())).collect()
    }

    #[test]
    fn as_written_keeps_the_plan() {
        let plan = sample();
        let cells: Vec<&PlannedCell> = plan.cells.iter().collect();
        let starts = starts(&plan, &cells, ordering(Order::AsWritten, 1, false));
        let expected: Vec<(u32, String)> =
            (0..3).flat_map(|block| ["a", "b", "c", "d"].map(|name| (block, name.to_owned()))).collect();
        assert_eq!(names(&starts), expected);
        let ids: Vec<&str> = starts[0].cells.iter().map(|cell| cell.id.as_str()).collect();
        assert_eq!(ids, ["a-c1-r0", "a-c2-r0", "a-c4-r0", "a-c8-r0"]);
    }

    #[test]
    fn blocks_are_shuffled_each_in_its_own_way() {
        let plan = sample();
        let cells: Vec<&PlannedCell> = plan.cells.iter().collect();
        let random = starts(&plan, &cells, ordering(Order::RandomBlocks, 42, false));
        assert!(random.is_sorted_by_key(|start| start.block), "blocks stay blocks");
        let of_block = |block: u32| -> Vec<&str> {
            random.iter().filter(|start| start.block == block).map(|start| start.point.id.as_str()).collect()
        };
        assert!(of_block(0) != of_block(1) || of_block(1) != of_block(2));
        let other = starts(&plan, &cells, ordering(Order::RandomBlocks, 43, false));
        assert_ne!(random, other);
        assert_eq!(random, starts(&plan, &cells, ordering(Order::RandomBlocks, 42, false)));
    }

    #[test]
    fn one_start_per_point_on_request() {
        let plan = sample();
        let cells: Vec<&PlannedCell> = plan.cells.iter().collect();
        let starts = starts(&plan, &cells, ordering(Order::RandomBlocks, 42, true));
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|start| start.cells.len() == 12 && start.block == 0));
    }

    proptest! {
        #[test]
        fn leaving_cells_out_keeps_the_order_of_the_rest(mask in proptest::collection::vec(any::<bool>(), 48), seed in any::<u64>()) {
            let plan = sample();
            let all: Vec<&PlannedCell> = plan.cells.iter().collect();
            let some: Vec<&PlannedCell> = all.iter().zip(&mask).filter(|(_, kept)| **kept).map(|(cell, _)| *cell).collect();
            let flat = |cells: &[&PlannedCell]| -> Vec<String> {
                let starts = starts(&plan, cells, ordering(Order::RandomBlocks, seed, false));
                starts.iter().flat_map(|start| start.cells.iter().map(|cell| cell.id.to_string())).collect()
            };
            let kept: Vec<String> = some.iter().map(|cell| cell.id.to_string()).collect();
            let expected: Vec<String> = flat(&all).into_iter().filter(|id| kept.contains(id)).collect();
            prop_assert_eq!(flat(&some), expected);
        }
    }
}
