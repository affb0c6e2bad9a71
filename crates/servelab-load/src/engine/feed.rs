//! Between the source and the load threads: a feeder thread asks the source ahead of time, a bounded amount, and puts
//! arrivals into queues, one per thread for open loops (arrival i belongs to thread i mod n), one for all otherwise.
//! Load threads never wait for it: a queue that is empty too early makes requests late, which the records show.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use servelab_core::record::Phase;

use crate::source::{Arrival, RequestSource, Work};

/// Most bytes of bodies that wait.
const MAX_BYTES: usize = 64 << 20;
/// Most arrivals that wait, over all queues.
const MAX_ITEMS: usize = 32_768;
const PAUSE: Duration = Duration::from_millis(2);

/// One arrival in the order of sending.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) phase: Phase,
    pub(crate) at_ns: i64,
    pub(crate) work: Work,
    bytes: usize,
}

/// What a queue answers.
#[derive(Debug)]
pub(crate) enum Next {
    Item(Item),
    /// The source is slower than the load; more will come.
    NotYet,
    /// There is no more.
    End,
}

/// The queues.
#[derive(Debug)]
pub(crate) struct Supply {
    queues: Vec<Mutex<Receiver<Item>>>,
    waiting_bytes: AtomicUsize,
    first_at_ns: AtomicI64,
    is_closed: AtomicBool,
    problem: Mutex<Option<String>>,
}

/// The feeder's end.
pub(crate) struct Feeder {
    senders: Vec<SyncSender<Item>>,
    source: Box<dyn RequestSource>,
    warmup: u64,
}

impl Supply {
    pub(crate) fn new(source: Box<dyn RequestSource>, warmup: u64, queues: usize) -> (Self, Feeder) {
        let channels = (0..queues).map(|_| sync_channel(MAX_ITEMS / queues.max(1)));
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let supply = Self {
            queues: receivers.into_iter().map(Mutex::new).collect(),
            waiting_bytes: AtomicUsize::new(0),
            first_at_ns: AtomicI64::new(0),
            is_closed: AtomicBool::new(false),
            problem: Mutex::new(None),
        };
        (supply, Feeder { senders, source, warmup })
    }

    /// The next arrival of queue `queue`.
    pub(crate) fn take(&self, queue: usize) -> Next {
        let Some(receiver) = self.queues.get(queue) else { return Next::End };
        let answer = lock(receiver).try_recv();
        match answer {
            Ok(item) => {
                self.waiting_bytes.fetch_sub(item.bytes, SeqCst);
                Next::Item(item)
            }
            Err(TryRecvError::Empty) => Next::NotYet,
            Err(TryRecvError::Disconnected) => Next::End,
        }
    }

    /// The instant of the very first arrival; known once the feeder is ahead.
    pub(crate) fn first_at_ns(&self) -> i64 {
        self.first_at_ns.load(SeqCst)
    }

    /// Nothing more is wanted.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, SeqCst);
    }

    /// Why the source gave up.
    pub(crate) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}

impl Feeder {
    /// Runs to the end of the source, or until nothing more is wanted. `ahead` is called once, when the queues are full
    /// or the source has ended.
    pub(crate) fn run(mut self, supply: &Supply, ahead: impl FnOnce()) {
        let mut ahead = Some(ahead);
        let mut count = 0_u64;
        'source: while !supply.is_closed.load(SeqCst) {
            let arrival = match self.source.next() {
                Ok(Some(arrival)) => arrival,
                Ok(None) => break,
                Err(problem) => {
                    *lock(&supply.problem) = Some(problem);
                    break;
                }
            };
            if count == 0 {
                supply.first_at_ns.store(arrival.at_ns, SeqCst);
            }
            let bytes = arrival.bytes();
            let Arrival { at_ns, work } = arrival;
            let phase = if count < self.warmup { Phase::Warmup } else { Phase::Window };
            let queue = (count % self.senders.len().max(1) as u64) as usize;
            count += 1;
            let mut item = Item { phase, at_ns, work, bytes };
            supply.waiting_bytes.fetch_add(bytes, SeqCst);
            loop {
                if supply.waiting_bytes.load(SeqCst) <= MAX_BYTES + bytes {
                    let Some(sender) = self.senders.get(queue) else { break 'source };
                    match sender.try_send(item) {
                        Ok(()) => break,
                        Err(TrySendError::Full(back)) => item = back,
                        Err(TrySendError::Disconnected(_)) => break 'source,
                    }
                }
                if let Some(ahead) = ahead.take() {
                    ahead();
                }
                if supply.is_closed.load(SeqCst) {
                    break 'source;
                }
                thread::sleep(PAUSE);
            }
        }
        drop(self.senders);
        if let Some(ahead) = ahead.take() {
            ahead();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::PreparedRequest;

    fn arrival(request_idx: i64, bytes: usize) -> Arrival {
        Arrival::now(PreparedRequest {
            request_idx,
            body: vec![b'x'; bytes],
            input_tokens: None,
            requested_output_tokens: None,
            ignore_eos: false,
        })
    }

    fn index(next: Next) -> Option<i64> {
        match next {
            Next::Item(Item { work: Work::Request(request), .. }) => Some(request.request_idx),
            _ => None,
        }
    }

    #[test]
    fn queues_are_dealt_in_turn_and_bounded() {
        let source = (0..1_000_000).map(|i| Ok(arrival(i, 1 << 20)));
        let (supply, feeder) = Supply::new(Box::new(source), 3, 2);
        thread::scope(|scope| {
            let (tx, rx) = sync_channel::<()>(1);
            let handle = scope.spawn(|| feeder.run(&supply, move || drop(tx)));
            let _ = rx.recv();
            let waiting = supply.waiting_bytes.load(SeqCst);
            assert!((MAX_BYTES..=MAX_BYTES + (4 << 20)).contains(&waiting), "{waiting}");
            let Next::Item(first) = supply.take(0) else { panic!("an item") };
            assert_eq!(first.phase, Phase::Warmup);
            assert_eq!(index(supply.take(0)), Some(2));
            assert_eq!(index(supply.take(1)), Some(1));
            let Next::Item(fourth) = supply.take(1) else { panic!("an item") };
            assert_eq!(fourth.phase, Phase::Window);
            supply.close();
            handle.join().unwrap();
        });
    }

    #[test]
    fn the_end_and_problems_are_told() {
        let source = vec![Ok(arrival(0, 1)), Err("the file ended in line 7".to_owned())];
        let (supply, feeder) = Supply::new(Box::new(source.into_iter()), 0, 1);
        feeder.run(&supply, || ());
        assert_eq!(index(supply.take(0)), Some(0));
        assert!(matches!(supply.take(0), Next::End));
        assert_eq!(supply.problem().as_deref(), Some("the file ended in line 7"));
        assert_eq!(supply.waiting_bytes.load(SeqCst), 0);
    }
}
