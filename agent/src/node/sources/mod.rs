//! Fetches, verifies and loads all git sources, and builds a valid candidate revision from them.

pub(super) mod candidates;
pub(super) mod follow;
pub(super) mod trees;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use towpath_git::{
    Ancestry, Auth, Limits, Mirror, Options, Reference, Snapshot, SourceError, VerifyError, VerifyOptions,
};
use towpath_render::{
    objects::{Loaded, ObjectSet, Pinned, SourceTree, load, load_holding, newly_held},
    problem::Problem,
    tree::Tree,
};
use towpath_state::{Changes, Journal, SourceCheckpoint};

use self::trees::SnapshotTree;
use crate::{
    config::{self, Source},
    error_chain::chain,
    status::conditions::{ConditionReason, Input},
};

/// The number of git sources after which the search for further sources ends.
const MOST_SOURCES: usize = 64;

/// The maximum nesting depth of sources that name further sources, and of includes (P19).
pub(in crate::node) const DEPTH: usize = 5;

/// The accepted snapshot and the head snapshot of one source.
#[derive(Debug, Default)]
struct SourceState {
    /// The snapshot of the accepted commit, read from the local mirror.
    old: Option<Snapshot>,
    /// The snapshot of the head. `None` if the node must not follow the head.
    new: Option<Snapshot>,
    /// The git tag that selected the head.
    tag: Option<String>,
}

impl SourceState {
    fn best(&self) -> Option<&Snapshot> {
        self.new.as_ref().or(self.old.as_ref())
    }

    fn safest(&self) -> Option<&Snapshot> {
        self.old.as_ref().or(self.new.as_ref())
    }
}

/// A function that loads objects from source trees: `load`, or `load_holding`, which leaves out objects with problems.
type Load = fn(&[SourceTree], &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded;

/// The snapshot of each source in a candidate revision, by name of the source.
type Chosen = BTreeMap<String, Snapshot>;

/// The git sources of the bootstrap file, and the folder of all mirrors.
#[derive(Debug)]
pub(in crate::node) struct Sources {
    folder: PathBuf,
    first: Vec<Source>,
}

/// The result of a refresh of all sources.
#[derive(Debug, Default)]
pub(in crate::node) struct RefreshReport {
    /// The commits of the valid candidate revision, by source.
    pub(in crate::node) commits: BTreeMap<String, String>,
    /// The objects at the commits of the candidate revision. `None` without a valid candidate.
    pub(in crate::node) set: Option<Arc<ObjectSet>>,
    /// The inputs for the state machine of the node.
    pub(in crate::node) inputs: Vec<Input>,
    /// The errors and warnings of a rejected candidate revision.
    pub(in crate::node) problems: Vec<Problem>,
    /// The sources of the bootstrap file, and the sources that the candidate revision adds.
    pub(in crate::node) sources: Vec<Source>,
    /// The head commits on the git servers, by source.
    pub(in crate::node) heads: BTreeMap<String, String>,
    tags: BTreeMap<String, Option<String>>,
    /// The checkpoints of accepted commits that the git server has shown for the first time, by source.
    pub(in crate::node) seen: BTreeMap<String, SourceCheckpoint>,
    /// The rejected candidate revisions, each as a map from sources to commits.
    pub(in crate::node) refused: BTreeSet<BTreeMap<String, String>>,
    /// True if a commit was rejected.
    pub(in crate::node) rejected: bool,
    pub(in crate::node) unreachable: bool,
}

impl Sources {
    pub(in crate::node) fn new(folder: PathBuf, first: Vec<Source>) -> Self {
        Self { folder, first }
    }

    /// Returns whether the git servers of all sources of the bootstrap file answer.
    pub(in crate::node) fn answer(&self) -> bool {
        self.first.iter().all(|source| self.mirror(source).answers())
    }

    fn mirror(&self, source: &Source) -> Mirror {
        Mirror::new(source.git.clone(), &self.folder)
    }

    /// Returns the sources that a revision names in addition to those of the bootstrap file.
    pub(in crate::node) fn further(&self, set: &ObjectSet) -> Vec<Source> {
        further_sources(set, &self.first)
    }

    /// Returns the mirrors of all sources of a revision.
    pub(in crate::node) fn mirrors(&self, set: &ObjectSet) -> BTreeMap<String, Arc<Mirror>> {
        let further = self.further(set);
        let all = self.first.iter().chain(&further);
        all.map(|source| (source.git.name.clone(), Arc::new(self.mirror(source)))).collect()
    }

    /// Returns whether the head of every source is still the accepted commit.
    pub(in crate::node) fn unmoved(&self, journal: &Journal, accepted: &BTreeMap<String, String>) -> bool {
        accepted.len() == self.first.len()
            && self.first.iter().all(|source| {
                let name = &source.git.name;
                let guard: Option<SourceCheckpoint> = journal.get_readable(name).ok().flatten();
                let known = guard.is_some_and(|guard| guard.origin == origin(source) && !guard.unseen);
                known && self.mirror(source).poll().is_ok_and(|head| accepted.get(name) == Some(&head))
            })
    }

    /// Returns a fingerprint of each mirror on disk, by source.
    pub(in crate::node) fn fingerprints(&self) -> BTreeMap<String, String> {
        self.first.iter().map(|source| (source.git.name.clone(), self.mirror(source).fingerprint())).collect()
    }

    /// Returns whether a revision uses only the sources of the bootstrap file.
    pub(in crate::node) fn alone(&self, set: &ObjectSet) -> bool {
        further_sources(set, &self.first).is_empty()
    }

    /// Loads accepted commits from the mirrors, without contacting the sources.
    pub(in crate::node) fn load_accepted(
        &self,
        commits: &BTreeMap<String, String>,
    ) -> Result<RefreshReport, SourceError> {
        let mut report = RefreshReport::default();
        let mut sources = self.first.clone();
        let mut snapshots: BTreeMap<String, Snapshot> = BTreeMap::new();
        for _ in 0..DEPTH {
            for source in &sources {
                if let (Some(commit), false) = (commits.get(&source.git.name), snapshots.contains_key(&source.git.name))
                {
                    snapshots.insert(source.git.name.clone(), self.mirror(source).snapshot(commit)?);
                }
            }
            let loaded = self.load(&sources, &snapshots, load_holding);
            let further = further_sources(&loaded.set, &sources);
            if further.is_empty() {
                if loaded.errors.is_empty() {
                    report.set = Some(Arc::new(loaded.set));
                    report.commits.clone_from(commits);
                }
                report.problems = loaded.errors;
                report.sources = sources;
                return Ok(report);
            }
            sources.extend(further);
        }
        Ok(report)
    }

    /// Refreshes all sources. The first candidate consists of the heads of all sources. If the first candidate does not
    /// load, each source in turn advances to its head or stays at its accepted commit. A source without a head and
    /// without an accepted commit blocks the candidate: the node keeps its last generation (P20).
    pub(in crate::node) fn refresh(
        &self,
        journal: &Journal,
        accepted: &BTreeMap<String, String>,
        rejected: &BTreeSet<BTreeMap<String, String>>,
        now: u64,
    ) -> RefreshReport {
        let mut report = RefreshReport { sources: self.first.clone(), ..RefreshReport::default() };
        let mut standings: BTreeMap<String, SourceState> = BTreeMap::new();
        let loaded = loop {
            for source in report.sources.clone() {
                if !standings.contains_key(&source.git.name) {
                    let standing = self.standing(journal, &source, accepted, now, &mut report);
                    standings.insert(source.git.name.clone(), standing);
                }
            }
            let Some(chosen) = choose(&report.sources, &standings, SourceState::best) else { return report };
            let loaded = self.load(&report.sources, &chosen, load);
            let further = further_sources(&loaded.set, &report.sources);
            if further.is_empty() || report.sources.len() > MOST_SOURCES {
                break loaded;
            }
            report.sources.extend(further);
        };
        if loaded.errors.is_empty() {
            let Some(chosen) = choose(&report.sources, &standings, SourceState::best) else { return report };
            for (name, standing) in &standings {
                if standing.new.is_some() {
                    report.inputs.push(Input::Rejected(name.clone(), None));
                }
            }
            report.adopt(loaded, &chosen, &standings);
            return report;
        }
        self.step_by_step(standings, rejected, &mut report);
        report
    }

    /// Advances the sources one at a time. A source advances if its head loads together with the sources before it.
    /// Objects of later sources that then become invalid are held, and do not block the advance (P21).
    fn step_by_step(
        &self,
        standings: BTreeMap<String, SourceState>,
        rejected: &BTreeSet<BTreeMap<String, String>>,
        report: &mut RefreshReport,
    ) {
        let Some(mut chosen) = choose(&report.sources, &standings, SourceState::safest) else { return };
        let mut good = Some(self.load_declared(&chosen)).filter(|(_, loaded)| loaded.errors.is_empty());
        let mut settled: BTreeSet<String> = BTreeSet::new();
        for source in report.sources.clone() {
            let name = source.git.name.clone();
            settled.insert(name.clone());
            let Some(head) = standings.get(&name).and_then(|standing| standing.new.clone()) else { continue };
            let same = chosen.get(&name).is_some_and(|old| old.commit == head.commit);
            let trial: Chosen =
                chosen.iter().map(|(name, old)| (name.clone(), old.clone())).chain([(name.clone(), head)]).collect();
            let (declared, loaded) = self.load_declared(&trial);
            let mut errors = loaded.errors.clone();
            let before = good.as_ref().map(|(_, good)| &good.set);
            let held = before.map_or_else(|| loaded.set.held.values().collect(), |set| newly_held(&loaded.set, set));
            errors.extend(held.iter().map(|held| held.problem.clone()).filter(|why| settled.contains(&why.source)));
            if errors.is_empty() {
                report.inputs.push(Input::Rejected(name, None));
                chosen = trial;
                good = Some((declared, loaded));
                continue;
            }
            if same && good.is_some() {
                continue;
            }
            report.rejected = true;
            report.inputs.push(Input::Rejected(name, Some(trouble::invalid(&source, &errors))));
            let commits = commits(&trial);
            if !rejected.contains(&commits) {
                report.problems.extend(errors);
            }
            report.refused.insert(commits);
        }
        if let Some((declared, loaded)) = good {
            chosen.retain(|name, _| declared.iter().any(|source| source.git.name == *name));
            report.sources = declared;
            report.adopt(loaded, &chosen, &standings);
        }
    }

    /// Loads the sources of the bootstrap file, and the sources that the chosen commits declare.
    fn load_declared(&self, chosen: &Chosen) -> (Vec<Source>, Loaded) {
        let mut sources = self.first.clone();
        loop {
            let loaded = self.load(&sources, chosen, load_holding);
            let further: Vec<Source> = further_sources(&loaded.set, &sources)
                .into_iter()
                .filter(|source| chosen.contains_key(&source.git.name))
                .collect();
            if further.is_empty() || sources.len() > MOST_SOURCES {
                return (sources, loaded);
            }
            sources.extend(further);
        }
    }

    /// Reads the accepted snapshot and the head snapshot of a source.
    fn standing(
        &self,
        journal: &Journal,
        source: &Source,
        accepted: &BTreeMap<String, String>,
        now: u64,
        report: &mut RefreshReport,
    ) -> SourceState {
        let mut standing = SourceState::default();
        let head = self.head(journal, source, accepted, now, report, &mut standing.tag);
        let commit = head.as_ref().map(|head| head.commit.clone());
        standing.new = head;
        if commit.as_ref() == accepted.get(&source.git.name) {
            standing.old.clone_from(&standing.new);
        } else {
            let mut quiet = RefreshReport::default();
            let of_old = if standing.new.is_none() { &mut *report } else { &mut quiet };
            standing.old = self.stay(&self.mirror(source), source, accepted, of_old);
        }
        standing
    }

    /// Returns the snapshot of the head of a source. `None` if the head must not be followed. The source then stays at
    /// its accepted commit.
    fn head(
        &self,
        journal: &Journal,
        source: &Source,
        accepted: &BTreeMap<String, String>,
        now: u64,
        report: &mut RefreshReport,
        tag: &mut Option<String>,
    ) -> Option<Snapshot> {
        let name = source.git.name.clone();
        let mirror = self.mirror(source);
        let known: Option<SourceCheckpoint> = journal.get_readable(&name).ok().flatten();
        let changed = known.as_ref().is_some_and(|guard| guard.origin != origin(source));
        let guard = known.filter(|_| !changed);
        let floor = guard
            .as_ref()
            .map(|guard| guard.commit.clone())
            .or_else(|| accepted.get(&name).filter(|_| !changed).cloned());
        let before = has_seen(source, &mirror, guard.as_ref(), floor.as_deref());
        let fetched = self.fetch(&mirror, floor.as_deref(), report, &name)?;
        let seen = before || has_seen(source, &mirror, guard.as_ref(), floor.as_deref());
        if let Some(guard) = guard.as_ref().filter(|guard| guard.unseen && seen) {
            report.seen.insert(name.clone(), SourceCheckpoint { unseen: false, ..guard.clone() });
        }
        if let Some(trouble) = trouble::refused(source, &fetched, guard.as_ref(), seen) {
            report.rejected = true;
            report.inputs.push(Input::Rejected(name, Some(trouble)));
            return None;
        }
        if fetched.movement == Ancestry::Behind && matches!(source.git.reference, Reference::Branch(_)) {
            tag.clone_from(&guard?.tag);
            return self.stay(&mirror, source, accepted, report);
        }
        // Changed signature rules do not affect a head and a tag that are already accepted. The rules apply to the next
        // head or tag.
        let accepted = guard.as_ref().is_some_and(|guard| guard.commit == fetched.commit && guard.tag == fetched.tag);
        let verified = if accepted { Ok(None) } else { mirror.verify_head(floor.as_deref(), &fetched, now) };
        match verified {
            Ok(_) => {}
            Err(VerifyError::Unverified(why)) => {
                report.rejected = true;
                let message = format!(
                    "{}: {why}; sign the commit with a key of verify.keyFiles, or add the signer's key to verify.keyFiles",
                    source.git.name
                );
                report.inputs.push(Input::Rejected(name, Some(ConditionReason::new("Unverified", message))));
                return None;
            }
            Err(VerifyError::Source(error)) => {
                Self::trouble(&error, &name, report);
                return None;
            }
        }
        match self.verified_tree(&mirror, &fetched.commit, report) {
            Ok(snapshot) => {
                *tag = fetched.tag;
                Some(snapshot)
            }
            Err(SourceError::Refused { commit, message }) => {
                report.rejected = true;
                let trouble = trouble::refused_tree(&name, &commit, &message);
                report.inputs.push(Input::Rejected(name, Some(trouble)));
                None
            }
            Err(error) => {
                Self::trouble(&error, &name, report);
                None
            }
        }
    }

    /// Reads the tree of a verified commit with all files of the tree. A damaged mirror is rebuilt.
    fn verified_tree(
        &self,
        mirror: &Mirror,
        commit: &str,
        report: &mut RefreshReport,
    ) -> Result<Snapshot, SourceError> {
        let read = || mirror.snapshot(commit).and_then(Snapshot::whole);
        match read() {
            Err(SourceError::Corrupt { .. }) => {
                Self::say_damaged(&mirror.options().name, report);
                mirror.renew()?;
                let read = read()?;
                report.inputs.push(Input::Source(mirror.options().name.clone(), None));
                Ok(read)
            }
            other => other,
        }
    }

    /// Reports that the mirror of a source is damaged and is rebuilt.
    fn say_damaged(name: &str, report: &mut RefreshReport) {
        tracing::warn!(source = name, "the mirror is damaged; rebuilding it");
        let message = format!(
            "the mirror of {name} is damaged; rebuilding it. If this happens again, check the disk (dmesg, smartctl)"
        );
        report.inputs.push(Input::Source(name.to_owned(), Some(ConditionReason::new("MirrorCorrupt", message))));
    }

    /// Fetches a source into its mirror. A damaged mirror is rebuilt.
    fn fetch(
        &self,
        mirror: &Mirror,
        floor: Option<&str>,
        report: &mut RefreshReport,
        name: &str,
    ) -> Option<towpath_git::Fetched> {
        let first = mirror.fetch(floor);
        let result = if matches!(first, Err(SourceError::Corrupt { .. })) {
            Self::say_damaged(name, report);
            mirror.renew().and_then(|()| mirror.fetch(floor))
        } else {
            first
        };
        match result {
            Ok(fetched) => {
                report.inputs.push(Input::Source(name.to_owned(), None));
                report.heads.insert(name.to_owned(), fetched.commit.clone());
                Some(fetched)
            }
            Err(error) => {
                Self::trouble(&error, name, report);
                None
            }
        }
    }

    fn trouble(error: &SourceError, name: &str, report: &mut RefreshReport) {
        report.unreachable = true;
        report.inputs.push(Input::Source(name.to_owned(), Some(trouble::of_error(error, name))));
    }

    /// Returns the accepted snapshot of a source from the mirror. `None` without an accepted commit, or if the mirror
    /// cannot be read.
    fn stay(
        &self,
        mirror: &Mirror,
        source: &Source,
        accepted: &BTreeMap<String, String>,
        report: &mut RefreshReport,
    ) -> Option<Snapshot> {
        let commit = accepted.get(&source.git.name)?;
        match mirror.snapshot(commit) {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                Self::trouble(&error, &source.git.name, report);
                None
            }
        }
    }

    /// Records a checkpoint of the accepted commit of each source. Checkpoints are in the journal, so they survive the
    /// loss of a mirror. A commit that this refresh fetched is recorded with the tag that selected it. An unchanged
    /// commit keeps its recorded tag. A commit that other nodes accepted is recorded with its highest tag.
    pub(in crate::node) fn remember(
        &self,
        report: &RefreshReport,
        accepted: &BTreeMap<String, String>,
        (journal, now): (&Journal, i64),
        changes: &mut Changes,
    ) {
        let now = u64::try_from(now / 1000).unwrap_or(0);
        for source in &report.sources {
            let name = &source.git.name;
            let Some(commit) = accepted.get(name) else { continue };
            let known: Option<SourceCheckpoint> = journal.get_readable(name).ok().flatten();
            let known = known.filter(|guard| guard.origin == origin(source));
            let tag = match (report.tags.get(name).cloned().flatten(), &known) {
                (Some(tag), _) => Some(tag),
                (None, Some(guard)) if guard.commit == *commit => guard.tag.clone(),
                (None, _) => {
                    let floor = known.as_ref().map(|guard| guard.commit.as_str());
                    self.mirror(source).tag_of(floor, commit, now).ok().flatten()
                }
            };
            let same = known.as_ref().filter(|guard| guard.commit == *commit);
            let unseen = !has_seen(source, &self.mirror(source), same, Some(commit));
            changes.put(name, &SourceCheckpoint { origin: origin(source), commit: commit.clone(), tag, unseen });
        }
    }

    /// Loads the objects of sources, and fetches the repositories of pinned includes.
    fn load(&self, sources: &[Source], snapshots: &BTreeMap<String, Snapshot>, load: Load) -> Loaded {
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
                loaded.wants.iter().filter(|wanted| !pinned.contains_key(*wanted)).cloned().collect();
            if missing.is_empty() || !failed.is_empty() {
                loaded.errors.append(&mut failed);
                return loaded;
            }
            for wanted in missing {
                match self.fetch_pinned(&wanted) {
                    Ok(tree) => {
                        pinned.insert(wanted, tree);
                    }
                    Err(error) => failed.push(Problem {
                        source: String::new(),
                        file: towpath_git::shown_url(&wanted.url),
                        line: 1,
                        column: 1,
                        message: format!("cannot fetch the include: {}", chain(&error)),
                        hint: None,
                        excerpt: String::new(),
                        caret: 0,
                        warning: false,
                    }),
                }
            }
        }
        load(&trees, &pinned)
    }

    /// Fetches the repository of an include without the credentials of the fleet (P116).
    fn fetch_pinned(&self, pinned: &Pinned) -> Result<Arc<dyn Tree>, SourceError> {
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
        let fetched = mirror.fetch(None)?;
        Ok(Arc::new(SnapshotTree(mirror.snapshot(&fetched.commit)?.whole()?)))
    }
}

/// Selects one snapshot for each source. `None` if a source has no snapshot.
fn choose(
    sources: &[Source],
    standings: &BTreeMap<String, SourceState>,
    which: fn(&SourceState) -> Option<&Snapshot>,
) -> Option<Chosen> {
    sources
        .iter()
        .map(|source| Some((source.git.name.clone(), which(standings.get(&source.git.name)?)?.clone())))
        .collect()
}

fn commits(chosen: &Chosen) -> BTreeMap<String, String> {
    chosen.iter().map(|(name, snapshot)| (name.clone(), snapshot.commit.clone())).collect()
}

impl RefreshReport {
    fn adopt(&mut self, loaded: Loaded, chosen: &Chosen, standings: &BTreeMap<String, SourceState>) {
        self.commits = commits(chosen);
        self.set = Some(Arc::new(loaded.set));
        for (name, snapshot) in chosen {
            // A source that stays at its accepted commit keeps its accepted tag.
            let head = standings
                .get(name)
                .filter(|standing| standing.new.as_ref().is_some_and(|new| new.commit == snapshot.commit));
            if let Some(standing) = head {
                self.tags.insert(name.clone(), standing.tag.clone());
            }
        }
    }
}

pub(in crate::node) fn origin(source: &Source) -> String {
    format!("{} {:?}", source.git.url, source.git.reference)
}

/// Returns whether the git server of this node has shown the accepted commit of a source at the ref. `guard` is the
/// checkpoint of this commit. Only a commit of a branch may come from other nodes alone (P140).
fn has_seen(source: &Source, mirror: &Mirror, guard: Option<&SourceCheckpoint>, accepted: Option<&str>) -> bool {
    let is_branch = matches!(source.git.reference, Reference::Branch(_));
    let shown = || accepted.is_none_or(|commit| mirror.has_shown(commit).unwrap_or(false));
    !is_branch || guard.is_some_and(|guard| !guard.unseen) || shown()
}

/// Returns the sources that Config objects in git name and that are not in `known`.
fn further_sources(set: &ObjectSet, known: &[Source]) -> Vec<Source> {
    let written = set.configs.values().flat_map(|config| &config.sources);
    let mut further: Vec<Source> = Vec::new();
    for source in written.filter_map(|source| config::source(source).ok()) {
        let taken = |other: &Source| other.git.name == source.git.name;
        if !known.iter().any(taken) && !further.iter().any(taken) {
            further.push(source);
        }
    }
    further
}

/// Returns the problems of invalid sources in the Config objects of a revision.
pub fn bad_sources(set: &ObjectSet) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, config) in &set.configs {
        let key = towpath_render::objects::Key { kind: "Config", namespace: String::new(), name: name.clone() };
        let Some(object) = set.objects.get(&key) else { continue };
        for (index, written) in config.sources.iter().enumerate() {
            if let Err(finding) = config::source(written) {
                let place = object.place.key("spec").key("sources").index(index);
                let mut problem = place.problem(finding, towpath_render::document::At::Value);
                problem.excerpt = towpath_git::without_secrets(&problem.excerpt);
                problems.push(problem);
            }
        }
    }
    problems
}
