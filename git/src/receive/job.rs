//! Jobs on untrusted data, such as a fetch, and the code that runs a job within the limits of its source.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use gix_pack as pack;
use serde::{Deserialize, Serialize};

use super::audit::Audit;
use crate::{
    Limits, SourceError, deadline, meter::Meter, objects::reachable::check_history, repo::BareRepo,
    transport::connection,
};

/// One job on untrusted data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The mirror to which the job writes.
    pub(crate) repo: BareRepo,
    /// The work of the job.
    pub(crate) task: Task,
}

/// The work of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// A job that fetches refs from the remote into the mirror.
    Fetch { spec: String },
    /// A job that indexes a pack file in the mirror, and checks that the history of the new commit is complete.
    Index { file: PathBuf, commit: String },
}

impl Job {
    /// Runs the job on a thread of this process.
    pub(super) fn in_process(self) -> Result<(), SourceError> {
        let repo = self.repo.clone();
        let Limits { fetch: time, objects, inflated, .. } = repo.options.limits;
        let meter = Meter::new(objects, inflated);
        let inner = meter.clone();
        let ended = deadline::run_metered(time, &meter, move |stop| self.perform(inner, &stop));
        match meter.exceeded() {
            Some(limit) => Err(repo.too_much(limit)),
            None => ended.within(&repo.options, time)?,
        }
    }

    fn perform(self, meter: Meter, stop: &AtomicBool) -> Result<(), SourceError> {
        let Self { repo, task } = &self;
        match task {
            Task::Fetch { spec } => {
                let audit = Audit::begin(repo, spec)?;
                connection::fetch(repo, spec, meter, stop).and_then(|()| audit.check())
            }
            Task::Index { file, commit } => {
                let audit = Audit::begin(repo, "")?;
                index(repo, file, meter, stop)
                    .and_then(|()| audit.check())
                    .and_then(|()| check_history(repo, commit, stop))
            }
        }
    }
}

/// Indexes a pack file into a mirror.
fn index(repo: &BareRepo, file: &Path, mut meter: Meter, stop: &AtomicBool) -> Result<(), SourceError> {
    let disk = |error| repo.disk(error);
    let folder = repo.pack_folder();
    std::fs::create_dir_all(&folder).map_err(disk)?;
    let mut input = BufReader::new(File::open(file).map_err(disk)?);
    let write = pack::bundle::write::Options {
        thread_limit: Some(1),
        iteration_mode: pack::data::input::Mode::Verify,
        alloc_limit_bytes: usize::try_from(repo.options.limits.object).ok(),
        ..Default::default()
    };
    let written = pack::Bundle::write_to_directory(
        &mut input,
        Some(&folder),
        &mut meter,
        stop,
        None::<gix::odb::Handle>,
        gix::hash::Kind::Sha1,
        write,
    )
    .map_err(|error| SourceError::Pack { message: error.to_string() })?;
    // The pack needs no keep file, because a ref will name the commit.
    written.keep_path.map_or(Ok(()), std::fs::remove_file).map_err(disk)
}
