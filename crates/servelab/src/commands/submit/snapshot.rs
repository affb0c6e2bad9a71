//! The study and site that submitted jobs run, kept as they were.

use super::*;

/// The study and site as they are at this moment: a job runs what was submitted, whatever is edited afterwards.
pub(super) struct Snapshot {
    study: PathBuf,
    pub(super) site: PathBuf,
    folder: PathBuf,
    program: PathBuf,
    /// What the program needs on the nodes.
    pub(super) glibc: Option<Glibc>,
}

impl Snapshot {
    pub(super) fn write(root: &Root, input: &StudyInput, args: &SubmitArgs) -> Result<Self, CommandError> {
        let study = input.doc.to_json();
        let site = input.site_doc.as_ref().map(servelab_core::yaml::Node::to_json).unwrap_or_default();
        let both = serde_json::json!([study, site]).to_string();
        let hash = servelab_core::identity::sha256_hex(both.as_bytes());
        let folder = root.study_dir(&input.study.study)?.join("submitted").join(hash.get(..12).unwrap_or_default());
        let program = match &args.program {
            Some(path) => absolute(path)?,
            None => std::env::current_exe()
                .map_err(|error| CommandError::failed(format!("cannot find this program's own file: {error}")))?,
        };
        let snapshot = Self {
            study: folder.join("study.yaml"),
            site: folder.join("site.yaml"),
            folder: absolute(&input.folder)?,
            glibc: glibc::needed(&program),
            program,
        };
        if !snapshot.site.exists() {
            write_json(&snapshot.study, &study)?;
            write_json(&snapshot.site, &site)?;
        }
        Ok(snapshot)
    }

    /// What a job's script runs.
    pub(super) fn command(&self, root: &Root, job: &JobId, args: &SubmitArgs) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut words = vec![text(&self.program), "run".to_owned(), text(&self.study)];
        words.extend(["--root".to_owned(), text(root.path())]);
        words.extend(["--site".to_owned(), text(&self.site)]);
        words.extend(["--study-folder".to_owned(), text(&self.folder)]);
        words.extend(args.study.engine_words());
        if let Some(retry) = &args.retry {
            words.extend(["--retry".to_owned(), retry.clone()]);
        }
        words.extend(["--job".to_owned(), job.to_string()]);
        words
    }
}
