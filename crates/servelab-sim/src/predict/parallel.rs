//! Independent simulations on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `job` for every index below `n` on all cores; results in order, whoever made them. A panic of a job is the
/// caller's.
pub fn in_parallel<T: Send>(n: usize, job: impl Fn(usize) -> Option<T> + Sync) -> Vec<Option<T>> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(n.max(1));
    let work = || {
        let mut mine = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= n {
                return mine;
            }
            mine.push((index, job(index)));
        }
    };
    let mut parts: Vec<(usize, Option<T>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done.flatten().collect()
    });
    parts.sort_by_key(|(index, _)| *index);
    parts.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_at_their_index() {
        let odd = |index: usize| (index % 2 == 1).then_some(index * index);
        let expected: Vec<_> = (0..500).map(odd).collect();
        assert_eq!(in_parallel(500, odd), expected);
        assert_eq!(in_parallel(0, odd), []);
    }

    #[test]
    #[should_panic(expected = "the seventh")]
    fn a_panic_is_not_swallowed() {
        in_parallel(20, |index| (index != 7).then_some(()).or_else(|| panic!("the seventh")));
    }
}
