//! A small stand-in for PBS: `qsub`, `qstat`, `qdel` and `qselect` as shell scripts over a folder, with the ids, exit codes
//! and record format of OpenPBS 23.06. Jobs really run, each in a session of its own. Switches are files in the folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

const COMMON: &str = r#"#!/bin/bash
S='@STATE@'
# One attribute per line, long values continued after a tab as PBS does.
attribute() {
    local line="    $1 = $2"
    while [ ${#line} -gt 78 ]; do printf '%s\n' "${line:0:78}"; line=$'\t'${line:78}; done
    printf '%s\n' "$line"
}
number() { local id=${1%%.*}; [[ $id =~ ^[0-9]+$ ]] && [ -d "$S/jobs/$id" ] && echo "$id"; }
"#;

const QSUB: &str = r#"
script= vars=
while [ $# -gt 0 ]; do
    case $1 in
        -v) vars=$2; shift 2 ;;
        -*) echo "qsub: invalid option -- '$1'" >&2; exit 2 ;;
        *) script=$1; shift ;;
    esac
done
[ -e "$S/refuse" ] && { echo "qsub: Unknown queue" >&2; exit 170; }
[ -e "$S/down" ] && { echo "qsub: cannot connect to server pbshead (errno=15010)" >&2; exit 210; }
grep -q $'\r' "$script" && { echo "qsub: script contains cr, lf" >&2; exit 1; }
grep -qE '^#PBS .* #' "$script" && { echo "qsub: directive error" >&2; exit 2; }
name=$(sed -n 's/^#PBS -N //p' "$script"); name=${name:-$(basename "$script")}
case $name in *[\ /:=]*) echo "qsub: illegal -N value" >&2; exit 2 ;; esac
# -v on the command line replaces the script's own.
[ -n "$vars" ] || vars=$(sed -n 's/^#PBS -v //p' "$script")
case $vars in *\"*|*\'*|*\\*) echo "qsub: cannot send environment with the job" >&2; exit 2 ;; esac
mkdir -p "$S/jobs"
id=0; while ! mkdir "$S/jobs/$id" 2>/dev/null; do id=$((id+1)); done
J=$S/jobs/$id
cp "$script" "$J/script"; echo "$name" >"$J/name"; echo "$vars" >"$J/vars"; pwd >"$J/workdir"
sed -n 's/^#PBS -l select=//p' "$script" >"$J/select"
sed -n 's/^#PBS -l walltime=//p' "$script" | awk -F: '{print $1*3600+$2*60+$3}' >"$J/walltime"
if grep -qE 'ngpus=(9|[1-9][0-9])' "$J/select"; then
    echo "Can Never Run: Insufficient amount of resource: ngpus (R: 99 A: 8 T: 8)" >"$J/comment"
    echo Q >"$J/state"
else
    echo Q >"$J/state"; echo "Not Running: Insufficient amount of resource: ncpus" >"$J/comment"
    setsid "$S/mom" "$id" </dev/null >/dev/null 2>&1 &
fi
[ -e "$S/slow" ] && sleep "$(cat "$S/slow")"
echo "$id.pbshead"
"#;

/// What runs a job: waits for room, starts the script in $HOME with a private umask, keeps its time limit.
const MOM: &str = r#"
id=$1; J=$S/jobs/$id
while [ "$(cat "$J/state")" = Q ]; do
    running=$(grep -lx R "$S"/jobs/*/state 2>/dev/null | wc -l)
    [ ! -e "$S/hold" ] && [ "$running" -lt 2 ] && break
    sleep 0.1
done
[ "$(cat "$J/state")" = Q ] || exit 0
echo R >"$J/state"; echo "Job run at now on (pbsn1:ncpus=1:ngpus=8)" >"$J/comment"
export PBS_JOBID=$id.pbshead PBS_O_WORKDIR; PBS_O_WORKDIR=$(cat "$J/workdir")
IFS=, read -ra pairs <"$J/vars"; for pair in "${pairs[@]}"; do export "$pair"; done
umask 077; cd "$HOME" || exit 1
setsid bash "$J/script" >"$J/out" 2>&1 </dev/null & pid=$!
echo "$pid" >"$J/pid"
limit=$(cat "$J/walltime"); ends=$((SECONDS + ${limit:-3600}))
while kill -0 "$pid" 2>/dev/null; do
    if [ $SECONDS -ge $ends ]; then
        echo -29 >"$J/exit"; kill -TERM -- "-$pid"; sleep 3; kill -KILL -- "-$pid" 2>/dev/null; break
    fi
    sleep 0.1
done
wait "$pid"; status=$?
[ -e "$J/exit" ] || { if [ -e "$J/deleted" ]; then echo 271; else echo "$status"; fi >"$J/exit"; }
echo F >"$J/state"
"#;

const QSTAT: &str = r#"
history=0 ids=()
for word in "$@"; do case $word in -xf) history=1 ;; -f) ;; --version) echo "pbs_version = 23.06.06"; exit 0 ;; *) ids+=("$word") ;; esac; done
[ -e "$S/down" ] && { echo "qstat: cannot connect to server pbshead (errno=15010)" >&2; exit 255; }
echo x >>"$S/questions"
rc=0
for name in "${ids[@]}"; do
    id=$(number "$name") || { echo "qstat: Unknown Job Id $name" >&2; rc=153; continue; }
    J=$S/jobs/$id; state=$(cat "$J/state")
    if [ "$state" = F ] && [ $history = 0 ]; then
        echo "qstat: $name Job has finished, use -x or -H to obtain historical job information" >&2; rc=35; continue
    fi
    echo "Job Id: $id.pbshead"
    attribute Job_Name "$(cat "$J/name")"
    attribute job_state "$state"
    attribute Resource_List.select "$(cat "$J/select")"
    attribute Variable_List "PBS_O_HOME=/home/hpcuser,PBS_O_PATH=/opt/pbs/bin:/usr/local/bin:/usr/bin:/bin,$(cat "$J/vars"),PBS_O_HOST=pbshead"
    attribute comment "$(cat "$J/comment")"
    [ -e "$J/exit" ] && [ "$state" = F ] && attribute Exit_status "$(cat "$J/exit")"
    echo
done
exit $rc
"#;

const QDEL: &str = r#"
rc=0
for name in "$@"; do
    id=$(number "$name") || { echo "qdel: Unknown Job Id $name" >&2; rc=153; continue; }
    J=$S/jobs/$id
    case $(cat "$J/state") in
        F) echo "qdel: Job has finished $name" >&2; rc=35 ;;
        Q) echo F >"$J/state" ;;
        *) touch "$J/deleted"; kill -TERM -- "-$(cat "$J/pid")" ;;
    esac
done
exit $rc
"#;

const QSELECT: &str = r#"
[ -e "$S/down" ] && { echo "qselect: cannot connect to server pbshead (errno=15010)" >&2; exit 255; }
for job in "$S"/jobs/*/; do [ -d "$job" ] && echo "$(basename "$job").pbshead"; done
exit 0
"#;

/// A stand-in for PBS with a state of its own.
#[derive(Debug)]
pub struct FakePbs {
    folder: TempDir,
}

impl FakePbs {
    /// Writes the programs.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("servelab-pbs-").tempdir().expect("a temporary folder");
        let pbs = Self { folder };
        let programs = [("qsub", QSUB), ("mom", MOM), ("qstat", QSTAT), ("qdel", QDEL), ("qselect", QSELECT)];
        for (name, text) in programs {
            let path = if name == "mom" { pbs.state().join(name) } else { pbs.bin().join(name) };
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("make a folder");
            let text = format!("{}{text}", COMMON.replace("@STATE@", &pbs.state().to_string_lossy()));
            std::fs::write(&path, text).expect("write a program");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("make it a program");
        }
        pbs
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// `PATH` with the programs in front.
    pub fn search_path(&self) -> String {
        format!("{}:{}", self.bin().display(), std::env::var("PATH").unwrap_or_default())
    }

    /// Turns a switch on: `refuse` and `down` for the server, `hold` keeps jobs in the queue, `slow` (seconds) keeps
    /// `qsub` from answering.
    pub fn switch_on(&self, name: &str, value: &str) {
        std::fs::write(self.state().join(name), value).expect("a switch");
    }

    /// Turns a switch off.
    pub fn switch_off(&self, name: &str) {
        let _ = std::fs::remove_file(self.state().join(name));
    }

    /// Jobs that were ever submitted.
    pub fn n_jobs(&self) -> usize {
        std::fs::read_dir(self.state().join("jobs")).map_or(0, Iterator::count)
    }

    /// Where a job's own files are.
    pub fn job_dir(&self, number: u32) -> PathBuf {
        self.state().join("jobs").join(number.to_string())
    }

    /// The folder of the programs.
    pub fn programs(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for FakePbs {
    fn default() -> Self {
        Self::new()
    }
}
