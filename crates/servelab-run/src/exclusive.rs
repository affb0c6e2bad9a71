//! A right that only one process holds at a time, as a file with its holder's name in it. It appears with its contents by one
//! link, so nobody ever reads half of it; it outlives its holder and is then taken over. Whoever takes over holds a right of
//! its own for as long as that takes, so that nobody replaces a holder that came after the one it looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use servelab_store::{ClaimInfo, StoreError, read_json, write_json};

/// Looks at a right whose holder gave it back in the same moment.
const TRIES: u32 = 5;

/// Takers that ended while taking over, one after another, before it is left alone.
const DEPTH: u32 = 8;

/// How long taking over may last before it counts as broken off.
const TURN: Duration = Duration::from_secs(30);

/// A right that was taken.
#[derive(Debug)]
pub(crate) struct Right {
    path: PathBuf,
}

impl Right {
    /// Takes the right, or says who has it (`None` when that cannot be read).
    pub(crate) fn take(
        path: &Path,
        me: &ClaimInfo,
        is_over: &dyn Fn(&ClaimInfo) -> bool,
    ) -> Result<Result<Self, Option<ClaimInfo>>, StoreError> {
        Self::take_at(path, me, is_over, DEPTH)
    }

    fn take_at(
        path: &Path,
        me: &ClaimInfo,
        is_over: &dyn Fn(&ClaimInfo) -> bool,
        depth: u32,
    ) -> Result<Result<Self, Option<ClaimInfo>>, StoreError> {
        let own = beside(path, "new");
        write_json(&own, me)?;
        let taken = take_with(&own, path, me, is_over, depth);
        let _ = fs::remove_file(&own);
        taken
    }

    /// Gives it back.
    pub(crate) fn give_back(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn take_with(
    own: &Path,
    path: &Path,
    me: &ClaimInfo,
    is_over: &dyn Fn(&ClaimInfo) -> bool,
    depth: u32,
) -> Result<Result<Right, Option<ClaimInfo>>, StoreError> {
    let failed = |source| StoreError::Io { action: "write", path: path.to_owned(), source };
    let mut holder = None;
    for _ in 0..TRIES {
        match fs::hard_link(own, path) {
            Ok(()) => return Ok(Ok(Right { path: path.to_owned() })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed(source)),
        }
        match read_json::<ClaimInfo>(path) {
            Ok(seen) if is_over(&seen) => holder = Some(seen),
            Ok(seen) => return Ok(Err(Some(seen))),
            // Given back since: free again.
            Err(_) if !path.exists() => continue,
            Err(_) => return Ok(Err(None)),
        }
        let Some(deeper) = depth.checked_sub(1) else { break };
        let takeover = takeover_path(path);
        // What the caller knows of a holder may rest on the age of its right; a turn is always young.
        let is_broken_off = |taker: &ClaimInfo| is_over(taker) && is_older_than(&takeover, TURN);
        let turn = match Right::take_at(&takeover, me, &is_broken_off, deeper)? {
            Ok(turn) => turn,
            // Whoever takes it over at this moment is the holder to name.
            Err(other) => return Ok(Err(other.or(holder))),
        };
        // Only one process at a time comes here, and a holder that is over changes nothing any more.
        let is_same = read_json::<ClaimInfo>(path).ok() == holder;
        let replaced = if is_same { fs::rename(own, path) } else { Ok(()) };
        turn.give_back();
        replaced.map_err(failed)?;
        if is_same {
            return Ok(Ok(Right { path: path.to_owned() }));
        }
    }
    Ok(Err(holder))
}

/// The right to take this right over.
fn takeover_path(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.takeover", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn is_older_than(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|file| file.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed > age))
}

fn beside(path: &Path, what: &str) -> PathBuf {
    static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let host = servelab_store::hostname();
    path.with_file_name(format!(".{name}.{what}.{host}.{}.{serial}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_takes_it_over() {
        // Often, because what went wrong once did so between two calls.
        for _ in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("right.json");
            let mut gone = ClaimInfo::of_this_process(None, 1);
            gone.pid = u32::MAX;
            assert!(Right::take(&path, &gone, &|_| false).unwrap().is_ok());
            let barrier = std::sync::Barrier::new(8);
            let taken: usize = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8)
                    .map(|n| {
                        let (path, gone, barrier) = (&path, &gone, &barrier);
                        scope.spawn(move || {
                            let me = ClaimInfo::of_this_process(None, n + 2);
                            barrier.wait();
                            usize::from(Right::take(path, &me, &|holder| holder == gone).unwrap().is_ok())
                        })
                    })
                    .collect();
                all.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(taken, 1);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
            let me = ClaimInfo::of_this_process(None, 99);
            let holder = Right::take(&path, &me, &|_| false).unwrap().unwrap_err();
            assert!(holder.is_some_and(|holder| holder != gone));
            Right { path: path.clone() }.give_back();
            assert!(Right::take(&path, &me, &|_| false).unwrap().is_ok());
        }
    }

    #[test]
    fn a_taker_that_broke_off_is_waited_for_and_then_taken_over_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("right.json");
        let mut gone = ClaimInfo::of_this_process(None, 1);
        gone.pid = u32::MAX;
        let broken_off = ClaimInfo { t_unix_ns: 2, ..gone.clone() };
        let me = ClaimInfo::of_this_process(None, 3);
        let is_over = |holder: &ClaimInfo| holder.pid == u32::MAX;
        assert!(Right::take(&path, &gone, &is_over).unwrap().is_ok());
        let takeover = takeover_path(&path);
        assert!(Right::take(&takeover, &broken_off, &is_over).unwrap().is_ok());
        assert_eq!(Right::take(&path, &me, &is_over).unwrap().unwrap_err(), Some(broken_off));
        let long_ago = std::time::SystemTime::now() - 2 * TURN;
        fs::File::options().write(true).open(&takeover).unwrap().set_modified(long_ago).unwrap();
        assert!(Right::take(&path, &me, &is_over).unwrap().is_ok());
        assert_eq!(read_json::<ClaimInfo>(&path).unwrap(), me);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
