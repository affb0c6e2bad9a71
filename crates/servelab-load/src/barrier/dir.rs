//! Meeting in a folder. Shard 0 calls with a word that nobody used before; whoever reads the call answers it in a file of
//! its own; when all answers are there, shard 0 writes the start. Files of an earlier load that lie in the folder carry
//! another word and are never mistaken. Only whole files appear (rename), and everything is found by reading again:
//! no locks, no notification, which network file systems do not have.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use servelab_core::shard::{ClockOffset, OffsetMethod, Shard};

use super::{Agreed, BarrierError, LEAD, Meeting, Wait, nonce};
use crate::clock;

/// Other hosts may see a new file only after their caches have expired.
const LEAD_ACROSS_HOSTS: Duration = Duration::from_secs(10);
/// More is no file of ours.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    word: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    word: String,
    own: String,
    shard: Shard,
    fingerprint: String,
    host: String,
    boot_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Go {
    word: String,
    /// `own` of every answer that counted, by shard.
    members: Vec<String>,
    boot_id: String,
    start_monotonic_ns: i64,
    /// Shard 0's wall clock minus its monotonic one.
    unix_minus_monotonic_ns: i64,
    /// Why there will be no start.
    refused: Option<String>,
}

pub(super) fn meet(folder: &Path, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    fs::create_dir_all(folder).map_err(system("make", folder))?;
    if meeting.shard.index == 0 { call(folder, meeting, wait) } else { follow(folder, meeting, wait) }
}

fn system(action: &'static str, path: &Path) -> impl Fn(io::Error) -> BarrierError {
    move |source| BarrierError::System { action, place: path.display().to_string(), source }
}

fn call(folder: &Path, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    let word = nonce();
    let count = meeting.shard.count;
    write(&folder.join("call.json"), &Call { word: word.clone() })?;
    let mut answers = Vec::new();
    let outcome = gather(folder, meeting, wait, &word, &mut answers);
    let refused = outcome.as_ref().err().map(ToString::to_string);
    let is_one_host = answers.iter().all(|answer| meeting.host.shares_clock(&answer.boot_id));
    let lead = if is_one_host { LEAD } else { LEAD_ACROSS_HOSTS };
    let start_monotonic_ns = meeting.monotonic_ns().saturating_add(i64::try_from(lead.as_nanos()).unwrap_or(0));
    let go = Go {
        word: word.clone(),
        members: answers.iter().map(|answer| answer.own.clone()).collect(),
        boot_id: meeting.host.boot_id.clone(),
        start_monotonic_ns,
        unix_minus_monotonic_ns: unix_minus_monotonic_ns(meeting),
        refused,
    };
    if count > 1 {
        write(&folder.join("go.json"), &go)?;
    }
    outcome?;
    let offset = ClockOffset { offset_ns: 0, uncertainty_ns: Some(0), method: OffsetMethod::SameHost };
    Ok(Agreed { run_id: word, start_monotonic_ns, offset })
}

/// Waits for the answers of all others; `answers` holds those that came, also when not all did.
fn gather(
    folder: &Path,
    meeting: &Meeting,
    wait: &Wait<'_>,
    word: &str,
    answers: &mut Vec<Answer>,
) -> Result<(), BarrierError> {
    let count = meeting.shard.count;
    loop {
        answers.clear();
        let mut missing = Vec::new();
        for index in 1..count {
            match read::<Answer>(&answer_path(folder, index)).filter(|answer| answer.word == word) {
                Some(answer) => answers.push(answer),
                None => missing.push(index),
            }
        }
        for answer in answers.iter() {
            let problem = if answer.shard.count != count {
                format!("was started as {}, shard 0 as one of {count}", answer.shard)
            } else if answer.fingerprint != meeting.fingerprint {
                "was started with other arguments; all shards need the same load, prompts and seed".to_owned()
            } else {
                continue;
            };
            return Err(BarrierError::Stranger { index: answer.shard.index, host: answer.host.clone(), problem });
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !wait.pause()? {
            return Err(BarrierError::Missing { missing, count, waited_s: wait.waited_s() });
        }
    }
}

fn follow(folder: &Path, meeting: &Meeting, wait: &Wait<'_>) -> Result<Agreed, BarrierError> {
    let own = nonce();
    let mut answered: Option<String> = None;
    loop {
        if let Some(Call { word }) = read::<Call>(&folder.join("call.json"))
            && answered.as_ref() != Some(&word)
        {
            let answer = Answer {
                word: word.clone(),
                own: own.clone(),
                shard: meeting.shard,
                fingerprint: meeting.fingerprint.clone(),
                host: meeting.host.name.clone(),
                boot_id: meeting.host.boot_id.clone(),
            };
            write(&answer_path(folder, meeting.shard.index), &answer)?;
            answered = Some(word);
        }
        // A start that does not know this process belongs to an earlier load in the same folder.
        let is_for_us = |go: &Go| Some(&go.word) == answered.as_ref() && go.members.contains(&own);
        if let Some(go) = read::<Go>(&folder.join("go.json")).filter(is_for_us) {
            return match go.refused {
                Some(words) => Err(BarrierError::Refused { words }),
                None => Ok(agree(&go, meeting)),
            };
        }
        if !wait.pause()? {
            let word = answered.as_deref();
            let is_absent = |index: &u32| {
                read::<Answer>(&answer_path(folder, *index)).is_none_or(|answer| Some(answer.word.as_str()) != word)
            };
            let missing: Vec<u32> = (1..meeting.shard.count).filter(is_absent).collect();
            return Err(match word {
                Some(_) if !missing.is_empty() => {
                    BarrierError::Missing { missing, count: meeting.shard.count, waited_s: wait.waited_s() }
                }
                _ => BarrierError::NoFirst {
                    place: folder.display().to_string(),
                    waited_s: wait.waited_s(),
                    problem: "no start was written there".to_owned(),
                },
            });
        }
    }
}

fn agree(go: &Go, meeting: &Meeting) -> Agreed {
    let offset = if meeting.host.shares_clock(&go.boot_id) {
        ClockOffset { offset_ns: 0, uncertainty_ns: Some(0), method: OffsetMethod::SameHost }
    } else {
        let offset_ns = unix_minus_monotonic_ns(meeting).saturating_sub(go.unix_minus_monotonic_ns);
        ClockOffset { offset_ns, uncertainty_ns: None, method: OffsetMethod::WallClock }
    };
    let start_monotonic_ns = go.start_monotonic_ns.saturating_sub(offset.offset_ns);
    Agreed { run_id: go.word.clone(), start_monotonic_ns, offset }
}

fn unix_minus_monotonic_ns(meeting: &Meeting) -> i64 {
    let epoch = clock::new_epoch();
    epoch.epoch_unix_ns.saturating_sub(epoch.epoch_monotonic_ns).saturating_sub(meeting.clock_shift_ns)
}

fn answer_path(folder: &Path, index: u32) -> std::path::PathBuf {
    folder.join(format!("arrive-{index}.json"))
}

/// Whatever is not there, not whole or not ours does not exist yet.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let is_small = fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
    serde_json::from_slice(&is_small.then(|| fs::read(path).ok()).flatten()?).ok()
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), BarrierError> {
    let text = serde_json::to_vec(value).map_err(|error| system("write", path)(error.into()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", nonce()));
    let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        system("write", path)(source)
    })
}
