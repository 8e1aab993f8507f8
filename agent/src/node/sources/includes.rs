//! Loads the objects of sources together with the repositories that tasks include.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use towpath_git::{Auth, Limits, Mirror, Options, Reference, Snapshot, VerifyOptions};
use towpath_render::{
    objects::{Loaded, Pinned, SourceTree},
    problem::Problem,
    tree::Tree,
};

use super::{
    DEPTH, Load, Sources, bad_sources,
    requests::{RequestError, is_pending},
    trees::SnapshotTree,
};
use crate::{config::Source, error_chain::error_chain};

impl Sources {
    /// Loads the objects of sources, and fetches the repositories of pinned includes.
    ///
    /// # Errors
    /// Fails with the error `Pending` if the git server of an include has not answered yet.
    pub(super) fn load(
        &self,
        sources: &[Source],
        snapshots: &BTreeMap<String, Snapshot>,
        load: Load,
    ) -> Result<Loaded, RequestError> {
        let trees: Vec<SourceTree> = sources
            .iter()
            .filter_map(|source| {
                let snapshot = snapshots.get(&source.git.name)?.clone();
                Some(SourceTree {
                    name: source.git.name.clone(),
                    tree: Arc::new(SnapshotTree(snapshot)),
                    library: source.library,
                    globals: source.globals,
                })
            })
            .collect();
        let mut pinned: BTreeMap<Pinned, Arc<dyn Tree>> = BTreeMap::new();
        let mut failed: Vec<Problem> = Vec::new();
        for _ in 0..DEPTH {
            let mut loaded = load(&trees, &pinned);
            loaded.errors.extend(bad_sources(&loaded.set));
            let missing: Vec<Pinned> =
                loaded.missing_inputs.iter().filter(|wanted| !pinned.contains_key(*wanted)).cloned().collect();
            if missing.is_empty() || !failed.is_empty() {
                loaded.errors.append(&mut failed);
                return Ok(loaded);
            }
            let mut pending = None;
            for wanted in missing {
                match self.fetch_pinned(&wanted) {
                    Ok(tree) => {
                        pinned.insert(wanted, tree);
                    }
                    Err(error) if is_pending(&error) => pending = Some(error),
                    Err(error) => failed.push(Problem {
                        source: String::new(),
                        file: towpath_git::display_url(&wanted.url),
                        line: 1,
                        column: 1,
                        message: format!("cannot fetch the include: {}", error_chain(&*error)),
                        hint: None,
                        excerpt: String::new(),
                        caret: 0,
                        warning: false,
                    }),
                }
            }
            if let Some(pending) = pending {
                return Err(pending);
            }
        }
        Ok(load(&trees, &pinned))
    }

    /// Fetches the repository of an include, and sends no credentials of the fleet (P116).
    fn fetch_pinned(&self, pinned: &Pinned) -> Result<Arc<dyn Tree>, RequestError> {
        use sha2::Digest as _;
        let name = format!("include-{}", &hex::encode(sha2::Sha256::digest(pinned.url.as_bytes()))[..16]);
        let options = Options {
            name,
            url: pinned.url.clone(),
            reference: Reference::Commit(pinned.commit.to_ascii_lowercase()),
            path: String::new(),
            // The empty SSH key ensures that SSH uses no key of the agent's user on this server.
            auth: Auth { ssh_key_file: Some(PathBuf::from("/dev/null")), ..Auth::default() },
            verify: VerifyOptions::default(),
            allow_rewind: true,
            limits: Limits::default(),
        };
        let mirror = Mirror::new(options, &self.folder);
        let fetched = self.requests.fetch(&mirror, None).result?;
        let snapshot = mirror.snapshot(&fetched.commit).and_then(Snapshot::whole).map_err(Arc::new)?;
        Ok(Arc::new(SnapshotTree(snapshot)))
    }
}
