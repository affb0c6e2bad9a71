//! A right that only one process holds at a time, as a file with its holder's name in it. It appears with its contents by one
//! link, so nobody ever reads half of it; it outlives its holder and is then taken over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use servelab_store::{ClaimInfo, StoreError, read_json, write_json};

/// Lost races in a row before somebody else is said to hold it.
const TRIES: u32 = 5;

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
        let failed = |source| StoreError::Io { action: "write", path: path.to_owned(), source };
        let own = beside(path, "new");
        write_json(&own, me)?;
        let mut holder = None;
        let mut is_taken = false;
        for _ in 0..TRIES {
            match fs::hard_link(&own, path) {
                Ok(()) => is_taken = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    let _ = fs::remove_file(&own);
                    return Err(failed(source));
                }
            }
            if is_taken {
                break;
            }
            holder = read_json::<ClaimInfo>(path).ok();
            let Some(seen) = holder.clone().filter(|seen| is_over(seen)) else { break };
            // Somebody may have taken it over since it was looked at: then it goes back.
            let old = beside(path, "old");
            if fs::rename(path, &old).is_ok() && read_json::<ClaimInfo>(&old).ok().as_ref() != Some(&seen) {
                let _ = fs::hard_link(&old, path);
            }
            let _ = fs::remove_file(&old);
        }
        let _ = fs::remove_file(&own);
        Ok(if is_taken { Ok(Self { path: path.to_owned() }) } else { Err(holder) })
    }

    /// Gives it back.
    pub(crate) fn give_back(self) {
        let _ = fs::remove_file(&self.path);
    }
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
