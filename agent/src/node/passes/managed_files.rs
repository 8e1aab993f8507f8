//! Watches the managed files for changes by other programs.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use towpath_host::watch::{FileWatch, Touched};

use crate::{
    node::inbox::{Inbox, pace::TouchPace},
    reconcile::pass::{HostContext, Watched},
};

/// The managed files of a running agent. The agent watches the directories of the managed files.
#[derive(Debug)]
pub(in crate::node) struct ManagedFiles {
    machine: Arc<HostContext>,
    watch: Option<FileWatch>,
    /// The version of each managed file, read before the most recent pass checked the file.
    versions: Watched,
    pace: TouchPace,
}

impl ManagedFiles {
    /// Begins to watch. A change of a managed file wakes the main loop.
    pub(in crate::node) fn new(machine: Arc<HostContext>, inbox: Inbox) -> Self {
        let watch = FileWatch::new(move |touched| {
            inbox.notify(|work| match touched {
                Touched::Path(path) => drop(work.touched.insert(path)),
                Touched::Anything => work.check = true,
            });
        })
        .map_err(|error| tracing::warn!(%error, "cannot watch files; drift is only detected at the reconcile interval"))
        .ok();
        Self { machine, watch, versions: Watched::default(), pace: TouchPace::default() }
    }

    /// Records the end of a pass, and the file versions that the pass read. `seen` is `None` if the pass checked no
    /// file because nothing had changed.
    pub(in crate::node) fn pass_ended(&mut self, seen: Option<Watched>, now: Instant) {
        if let Some(seen) = seen {
            self.machine.written.retain(|path| seen.contains_key(path));
            self.versions = seen;
        }
        self.pace.pass_ended(now);
    }

    /// Watches the directories of the managed files. Returns the files whose directory was not watched before. A file
    /// in an unwatched directory may have changed without an event.
    pub(in crate::node) fn watch(&mut self) -> BTreeSet<PathBuf> {
        let Some(watch) = &mut self.watch else { return BTreeSet::new() };
        let new = watch.set(self.versions.keys().map(PathBuf::as_path));
        self.versions.keys().filter(|path| path.parent().is_some_and(|folder| new.contains(folder))).cloned().collect()
    }

    /// Returns true if another program may have changed a managed file since the most recent pass checked the file.
    pub(in crate::node) fn are_touched(&self, paths: &BTreeSet<PathBuf>) -> bool {
        let machine = &self.machine;
        paths.iter().any(|real| {
            let Some(seen) = self.versions.get(real) else { return false };
            let Ok(inner) = real.strip_prefix(machine.reader.root()) else { return false };
            let path = format!("/{}", inner.display());
            let intact = machine.written.is_intact(&machine.reader, real, &path);
            intact.map_or_else(|| seen.may_differ(&machine.reader, &path), |intact| !intact)
        })
    }

    /// Returns the time at which the next pass starts after a change of a managed file. The pause before the pass is
    /// never longer than the reconcile interval.
    pub(in crate::node) fn next_pass(&mut self, now: Instant, interval: Duration) -> Instant {
        let pause = self.pace.touched(now);
        if !pause.is_zero() {
            tracing::warn!(
                seconds = pause.as_secs(),
                "managed files change during each pass or directly after it; the next pass is delayed; find the other task or program that changes these files"
            );
        }
        now.checked_add(pause.min(interval)).unwrap_or(now)
    }
}
