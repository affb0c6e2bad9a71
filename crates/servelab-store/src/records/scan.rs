//! Raw records on disk as something to go through: requests and their events side by side, one row group of each in memory.
//! Both files are in the same order of requests, as every writer of ours leaves them. What is computed on the way is
//! `servelab_core::metrics`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use servelab_core::metrics::Records;
use servelab_core::record::{EventRecord, RequestRecord};

use super::RecordReader;
use crate::error::StoreError;

/// `requests.parquet` and, where there is one, the events beside it.
#[derive(Debug)]
pub struct RecordFiles {
    requests: PathBuf,
    events: Option<PathBuf>,
    problem: Mutex<Option<StoreError>>,
}

impl RecordFiles {
    /// Files that exist; they are opened when they are gone through.
    pub fn new(requests: PathBuf, events: Option<PathBuf>) -> Self {
        Self { requests, events, problem: Mutex::new(None) }
    }

    /// What went wrong on the way, to be asked after everything was computed: until then an unreadable rest looks like an
    /// end.
    pub fn check(self) -> Result<(), StoreError> {
        self.problem.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn go(&self, each: &mut dyn FnMut(&RequestRecord, &[EventRecord])) -> Result<(), StoreError> {
        let mut requests: RecordReader<RequestRecord> = RecordReader::open(&self.requests)?;
        let mut events = match &self.events {
            Some(path) => Some((path, RecordReader::<EventRecord>::open(path)?)),
            None => None,
        };
        let mut waiting: VecDeque<EventRecord> = VecDeque::new();
        let mut own = Vec::new();
        while let Some(group) = requests.next_group()? {
            for request in &group {
                own.clear();
                loop {
                    if waiting.is_empty()
                        && let Some((_, reader)) = &mut events
                        && let Some(more) = reader.next_group()?
                    {
                        waiting.extend(more);
                    }
                    match waiting.pop_front_if(|event| event.request_idx == request.request_idx) {
                        Some(event) if event.n_tokens > 0 => own.push(event),
                        Some(_) => {}
                        None => break,
                    }
                }
                each(request, &own);
            }
        }
        match (waiting.front(), &events) {
            (Some(event), Some((path, _))) => Err(StoreError::malformed(
                path,
                format!("the events of request {} are not where the requests file has it", event.request_idx),
            )),
            _ => Ok(()),
        }
    }
}

impl Records for RecordFiles {
    fn visit(&self, each: &mut dyn FnMut(&RequestRecord, &[EventRecord])) {
        if let Err(error) = self.go(each) {
            self.problem.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use servelab_core::record::Phase;

    use super::*;
    use crate::{RecordWriter, write_events, write_requests};

    fn records(n: i64) -> (Vec<RequestRecord>, Vec<EventRecord>) {
        // Ended in another order than they were scheduled; every third has no event.
        let order = (0..n).map(|i| (i * 7) % n);
        let requests: Vec<RequestRecord> =
            order.map(|idx| RequestRecord::scheduled(idx, Phase::Window, idx * 10)).collect();
        let events = requests.iter().filter(|request| request.request_idx % 3 > 0).flat_map(|request| {
            let request_idx = request.request_idx;
            (0..4).map(move |i| EventRecord { request_idx, t_ns: request_idx * 10 + i, n_tokens: 1 })
        });
        let events = events.collect();
        (requests, events)
    }

    #[test]
    fn each_request_comes_with_its_events() {
        let dir = tempfile::tempdir().unwrap();
        let (requests_path, events_path) = (dir.path().join("requests.parquet"), dir.path().join("events.parquet"));
        let (requests, events) = records(100);
        // Small row groups, so that requests lie across them.
        let mut writer = RecordWriter::create(&events_path).unwrap();
        for (i, event) in events.iter().enumerate() {
            writer.push(event).unwrap();
            if i % 7 == 6 {
                writer.flush().unwrap();
            }
        }
        writer.finish().unwrap();
        write_requests(&requests_path, &requests).unwrap();
        let files = RecordFiles::new(requests_path.clone(), Some(events_path.clone()));
        for pass in 0..2 {
            let mut seen = Vec::new();
            files.visit(&mut |request, events| {
                assert!(events.iter().all(|event| event.request_idx == request.request_idx));
                seen.push((request.request_idx, events.len()));
            });
            let expected = requests.iter().map(|r| (r.request_idx, if r.request_idx % 3 > 0 { 4 } else { 0 }));
            assert_eq!(seen, expected.collect::<Vec<_>>(), "pass {pass}");
        }
        files.check().unwrap();

        let mut without = 0;
        let files = RecordFiles::new(requests_path.clone(), None);
        files.visit(&mut |_, events| without += events.len());
        files.check().unwrap();
        assert_eq!(without, 0);

        write_events(&events_path, &events.iter().rev().copied().collect::<Vec<_>>()).unwrap();
        let files = RecordFiles::new(requests_path, Some(events_path));
        files.visit(&mut |_, _| ());
        let message = files.check().unwrap_err().to_string();
        assert!(message.contains("events.parquet") && message.contains("not where"), "{message}");
    }

    #[test]
    fn a_file_that_is_not_there_is_told_afterwards() {
        let files = RecordFiles::new(PathBuf::from("/nowhere/requests.parquet"), None);
        files.visit(&mut |_, _| ());
        assert!(files.check().unwrap_err().is_not_found());
    }
}
