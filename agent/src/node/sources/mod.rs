//! Fetches, verifies and loads all git sources, and builds a valid candidate revision from them.

pub(super) mod candidates;
pub(super) mod follow;
mod includes;
mod reasons;
pub(super) mod requests;
pub(super) mod trees;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use towpath_git::{Ancestry, Mirror, Reference, Snapshot, SourceError, VerifyError};
use towpath_render::{
    objects::{Loaded, ObjectSet, Pinned, SourceTree, load, load_partial, newly_held},
    problem::Problem,
    tree::Tree,
};
use towpath_state::{Changes, Journal, SourceCheckpoint};

use self::requests::{RequestError, Requests};
use crate::{
    config::{self, Source},
    error_chain::error_chain,
    status::conditions::{ConditionReason, Input},
};

/// The maximum number of git sources, after which the search for further sources ends.
const MOST_SOURCES: usize = 64;

/// The maximum nesting depth of includes, and of sources that name further sources (P19).
pub(in crate::node) const DEPTH: usize = 5;

/// The accepted snapshot and the head snapshot of one source.
#[derive(Debug, Default)]
struct SourceState {
    /// The snapshot of the accepted commit, read from the local mirror.
    old: Option<Snapshot>,
    /// The snapshot of the head. `new` is `None` if the node is not allowed to follow the head.
    new: Option<Snapshot>,
    /// The git tag that selected the head.
    tag: Option<String>,
}

impl SourceState {
    fn head_or_accepted(&self) -> Option<&Snapshot> {
        self.new.as_ref().or(self.old.as_ref())
    }

    fn accepted_or_head(&self) -> Option<&Snapshot> {
        self.old.as_ref().or(self.new.as_ref())
    }
}

/// A function that loads objects from source trees. `load_partial` omits invalid objects, and `load` omits no object.
type Load = fn(&[SourceTree], &BTreeMap<Pinned, Arc<dyn Tree>>) -> Loaded;

/// The snapshot of each source in a candidate revision, by name of the source.
type Chosen = BTreeMap<String, Snapshot>;

/// The git sources of the bootstrap file, and the folder of all mirrors.
#[derive(Debug)]
pub(in crate::node) struct Sources {
    folder: PathBuf,
    first: Vec<Source>,
    requests: Requests,
}

/// The result of a refresh of one source. `Known` is the best result, and `Rejected` is the worst result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::node) enum RefreshResult {
    /// The node knows the head of the source.
    #[default]
    Known,
    /// The source could not be fetched or read.
    Unreachable,
    /// A commit of the source was rejected.
    Rejected,
}

/// The result of a refresh of all sources.
#[derive(Debug, Default)]
pub(in crate::node) struct RefreshReport {
    /// The commits of the valid candidate revision, by source.
    pub(in crate::node) commits: BTreeMap<String, String>,
    /// The objects of the candidate revision. `set` is `None` if there is no valid candidate.
    pub(in crate::node) set: Option<Arc<ObjectSet>>,
    /// The inputs that the refresh adds to the state machine of the node.
    pub(in crate::node) inputs: Vec<Input>,
    /// The errors and warnings of a rejected candidate revision.
    pub(in crate::node) problems: Vec<Problem>,
    /// The sources of the bootstrap file, and the sources that the candidate revision adds.
    pub(in crate::node) sources: Vec<Source>,
    /// The head commits on the git servers, by source. Each entry contains the head commit, and the tag that selected
    /// the head. The tag is `None` if the candidate revision does not contain the head.
    pub(in crate::node) heads: BTreeMap<String, (String, Option<String>)>,
    /// A checkpoint for each accepted commit that this refresh found on the git server for the first time, by source.
    pub(in crate::node) seen: BTreeMap<String, SourceCheckpoint>,
    /// The rejected candidate revisions. Each rejected candidate is a map from sources to commits.
    pub(in crate::node) refused: BTreeSet<BTreeMap<String, String>>,
    /// The worst result of all sources.
    pub(in crate::node) worst: RefreshResult,
    /// One message for each request that a git server has not answered yet, by source.
    pub(in crate::node) pending: BTreeMap<String, String>,
}

impl Sources {
    pub(in crate::node) fn new(folder: PathBuf, first: Vec<Source>, requests: Requests) -> Self {
        Self { folder, first, requests }
    }

    /// Limits the time that the main loop waits for answers of a git server. A request that exceeds the limit continues
    /// in a separate thread, and does not block the main loop.
    pub(in crate::node) fn limit(&self, patience: Duration) {
        self.requests.limit(patience);
    }

    /// Begins a refresh. If one refresh makes the same request several times, each call receives the same answer.
    pub(in crate::node) fn begin_refresh(&self) {
        self.requests.begin_refresh();
    }

    /// Ends a refresh.
    pub(in crate::node) fn end_refresh(&self) {
        self.requests.end_refresh();
    }

    /// Returns the requests to git servers and to other nodes.
    pub(in crate::node) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns whether the git servers of all sources of the bootstrap file answer. Returns `None` if a git server has
    /// not answered yet.
    pub(in crate::node) fn answer(&self) -> Option<bool> {
        let answers: Vec<_> = self.first.iter().map(|source| self.requests.answers(&self.mirror(source))).collect();
        let all: Option<Vec<bool>> = answers.into_iter().collect();
        all.map(|answers| answers.into_iter().all(|answers| answers))
    }

    fn mirror(&self, source: &Source) -> Mirror {
        Mirror::new(source.git.clone(), &self.folder)
    }

    /// Returns the sources that the revision names but the bootstrap file does not name.
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
    pub(in crate::node) fn heads_are_accepted(&self, journal: &Journal, accepted: &BTreeMap<String, String>) -> bool {
        accepted.len() == self.first.len()
            && self.first.iter().all(|source| {
                let name = &source.git.name;
                let checkpoint: Option<SourceCheckpoint> = journal.get_readable(name).ok().flatten();
                let known =
                    checkpoint.is_some_and(|checkpoint| checkpoint.origin == origin(source) && !checkpoint.unseen);
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
    ) -> Result<RefreshReport, RequestError> {
        let mut report = RefreshReport::default();
        let mut sources = self.first.clone();
        let mut snapshots: BTreeMap<String, Snapshot> = BTreeMap::new();
        for _ in 0..DEPTH {
            for source in &sources {
                if let (Some(commit), false) = (commits.get(&source.git.name), snapshots.contains_key(&source.git.name))
                {
                    snapshots.insert(source.git.name.clone(), self.mirror(source).snapshot(commit).map_err(Arc::new)?);
                }
            }
            let loaded = self.load(&sources, &snapshots, load_partial)?;
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

    /// Refreshes all sources. The function first tries a candidate that consists of the heads of all sources. If the
    /// objects of all heads are not valid together, the sources advance to their heads one at a time. A source without
    /// a head and without an accepted commit blocks the candidate (P20). A node with a blocked candidate keeps its
    /// accepted generation.
    pub(in crate::node) fn refresh(
        &self,
        journal: &Journal,
        accepted: &BTreeMap<String, String>,
        rejected: &BTreeSet<BTreeMap<String, String>>,
        now: u64,
    ) -> RefreshReport {
        let mut report = RefreshReport { sources: self.first.clone(), ..RefreshReport::default() };
        let mut states: BTreeMap<String, SourceState> = BTreeMap::new();
        let loaded = loop {
            for source in report.sources.clone() {
                if !states.contains_key(&source.git.name) {
                    let state = self.source_state(journal, &source, accepted, now, &mut report);
                    states.insert(source.git.name.clone(), state);
                }
            }
            if !report.pending.is_empty() {
                // Heads that belong together are accepted together. The late answer causes another refresh.
                return report;
            }
            let Some(chosen) = choose(&report.sources, &states, SourceState::head_or_accepted) else { return report };
            let loaded = match self.load(&report.sources, &chosen, load) {
                Ok(loaded) => loaded,
                Err(error) => {
                    report.wait_for_include(&error);
                    return report;
                }
            };
            let further = further_sources(&loaded.set, &report.sources);
            if further.is_empty() || report.sources.len() > MOST_SOURCES {
                break loaded;
            }
            report.sources.extend(further);
        };
        if loaded.errors.is_empty() {
            let Some(chosen) = choose(&report.sources, &states, SourceState::head_or_accepted) else { return report };
            for (name, state) in &states {
                if state.new.is_some() {
                    report.inputs.push(Input::Rejected(name.clone(), None));
                }
            }
            report.adopt(loaded, &chosen, &states);
            return report;
        }
        let (inputs, worst) = (report.inputs.len(), report.worst);
        if let Err(error) = self.advance_individually(states, rejected, &mut report) {
            // The verdicts of the steps count only after the last step.
            report.inputs.truncate(inputs);
            report.worst = worst;
            report.problems.clear();
            report.refused.clear();
            report.wait_for_include(&error);
        }
        report
    }

    /// Advances the sources to their heads, one source at a time. A source advances to its head if the objects of the
    /// head are valid together with the objects of all preceding sources. Invalid objects of the following sources are
    /// held, and do not block the advance (P21).
    fn advance_individually(
        &self,
        states: BTreeMap<String, SourceState>,
        rejected: &BTreeSet<BTreeMap<String, String>>,
        report: &mut RefreshReport,
    ) -> Result<(), RequestError> {
        let Some(mut chosen) = choose(&report.sources, &states, SourceState::accepted_or_head) else { return Ok(()) };
        let mut good = Some(self.load_declared(&chosen)?).filter(|(_, loaded)| loaded.errors.is_empty());
        let mut decided: BTreeSet<String> = BTreeSet::new();
        for source in report.sources.clone() {
            let name = source.git.name.clone();
            decided.insert(name.clone());
            let Some(head) = states.get(&name).and_then(|state| state.new.clone()) else { continue };
            let same = chosen.get(&name).is_some_and(|old| old.commit == head.commit);
            let trial: Chosen =
                chosen.iter().map(|(name, old)| (name.clone(), old.clone())).chain([(name.clone(), head)]).collect();
            let (declared, loaded) = self.load_declared(&trial)?;
            let mut errors = loaded.errors.clone();
            let before = good.as_ref().map(|(_, good)| &good.set);
            let held = before.map_or_else(|| loaded.set.held.values().collect(), |set| newly_held(&loaded.set, set));
            errors.extend(held.iter().map(|held| held.problem.clone()).filter(|why| decided.contains(&why.source)));
            if errors.is_empty() {
                report.inputs.push(Input::Rejected(name, None));
                chosen = trial;
                good = Some((declared, loaded));
                continue;
            }
            if same && good.is_some() {
                continue;
            }
            report.worst = RefreshResult::Rejected;
            report.inputs.push(Input::Rejected(name, Some(reasons::invalid(&source, &errors))));
            let commits = commits(&trial);
            if !rejected.contains(&commits) {
                report.problems.extend(errors);
            }
            report.refused.insert(commits);
        }
        if let Some((declared, loaded)) = good {
            chosen.retain(|name, _| declared.iter().any(|source| source.git.name == *name));
            report.sources = declared;
            report.adopt(loaded, &chosen, &states);
        }
        Ok(())
    }

    /// Loads the sources of the bootstrap file, and the sources that Config objects in the chosen commits declare.
    fn load_declared(&self, chosen: &Chosen) -> Result<(Vec<Source>, Loaded), RequestError> {
        let mut sources = self.first.clone();
        loop {
            let loaded = self.load(&sources, chosen, load_partial)?;
            let further: Vec<Source> = further_sources(&loaded.set, &sources)
                .into_iter()
                .filter(|source| chosen.contains_key(&source.git.name))
                .collect();
            if further.is_empty() || sources.len() > MOST_SOURCES {
                return Ok((sources, loaded));
            }
            sources.extend(further);
        }
    }

    /// Reads the accepted snapshot and the head snapshot of a source.
    fn source_state(
        &self,
        journal: &Journal,
        source: &Source,
        accepted: &BTreeMap<String, String>,
        now: u64,
        report: &mut RefreshReport,
    ) -> SourceState {
        let mut state = SourceState::default();
        let head = self.head(journal, source, accepted, now, report, &mut state.tag);
        let commit = head.as_ref().map(|head| head.commit.clone());
        state.new = head;
        if commit.as_ref() == accepted.get(&source.git.name) {
            state.old.clone_from(&state.new);
        } else {
            let mut quiet = RefreshReport::default();
            // A mirror cannot be judged while a request may replace the mirror.
            let is_judged = state.new.is_none() && !report.pending.contains_key(&source.git.name);
            let of_old = if is_judged { &mut *report } else { &mut quiet };
            state.old = self.stay(&self.mirror(source), source, accepted, of_old);
        }
        state
    }

    /// Returns the snapshot of the head of a source. Returns `None` if the node is not allowed to follow the head. If
    /// the node is not allowed to follow the head of a source, the source stays at its accepted commit.
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
        let changed = known.as_ref().is_some_and(|checkpoint| checkpoint.origin != origin(source));
        let checkpoint = known.filter(|_| !changed);
        let floor = checkpoint
            .as_ref()
            .map(|checkpoint| checkpoint.commit.clone())
            .or_else(|| accepted.get(&name).filter(|_| !changed).cloned());
        let before = has_seen(source, &mirror, checkpoint.as_ref(), floor.as_deref());
        let fetched = self.fetch(&mirror, floor.as_deref(), report, &name)?;
        let seen = before || has_seen(source, &mirror, checkpoint.as_ref(), floor.as_deref());
        if let Some(checkpoint) = checkpoint.as_ref().filter(|checkpoint| checkpoint.unseen && seen) {
            report.seen.insert(name.clone(), SourceCheckpoint { unseen: false, ..checkpoint.clone() });
        }
        if let Some(reason) = reasons::refused(source, &fetched, checkpoint.as_ref(), seen) {
            report.worst = RefreshResult::Rejected;
            report.inputs.push(Input::Rejected(name, Some(reason)));
            return None;
        }
        if fetched.ancestry == Ancestry::Behind && matches!(source.git.reference, Reference::Branch(_)) {
            tag.clone_from(&checkpoint?.tag);
            return self.stay(&mirror, source, accepted, report);
        }
        // Changed signature rules do not affect a head and a tag that are already accepted. The rules apply to the next
        // head or tag.
        let accepted = checkpoint
            .as_ref()
            .is_some_and(|checkpoint| checkpoint.commit == fetched.commit && checkpoint.tag == fetched.tag);
        let verified = if accepted { Ok(None) } else { mirror.verify_head(floor.as_deref(), &fetched, now) };
        match verified {
            Ok(_) => {}
            Err(VerifyError::Unverified(why)) => {
                report.worst = RefreshResult::Rejected;
                let message = format!(
                    "{}: {why}; sign the commit with a key of `verify.keyFiles`, or add the signer's key to `verify.keyFiles`",
                    source.git.name
                );
                report.inputs.push(Input::Rejected(name, Some(ConditionReason::new("Unverified", message))));
                return None;
            }
            Err(VerifyError::Source(error)) => {
                Self::report_error(&error, &name, report);
                return None;
            }
        }
        match self.verified_tree(&mirror, &fetched.commit, report) {
            Ok(snapshot) => {
                *tag = fetched.tag;
                Some(snapshot)
            }
            Err(error) => {
                match &*error {
                    SourceError::Refused { commit, message } => {
                        report.worst = RefreshResult::Rejected;
                        let reason = reasons::refused_tree(&name, commit, message);
                        report.inputs.push(Input::Rejected(name, Some(reason)));
                    }
                    error => Self::report_error(error, &name, report),
                }
                None
            }
        }
    }

    /// Reads a verified commit with all of its files. A damaged mirror is rebuilt.
    fn verified_tree(
        &self,
        mirror: &Mirror,
        commit: &str,
        report: &mut RefreshReport,
    ) -> Result<Snapshot, RequestError> {
        let read = || mirror.snapshot(commit).and_then(Snapshot::whole).map_err(Arc::new);
        match read() {
            Err(error) if matches!(*error, SourceError::Corrupt { .. }) => {
                Self::report_damage(&mirror.options().name, report);
                self.requests.renew(mirror)?;
                let read = read()?;
                report.inputs.push(Input::Source(mirror.options().name.clone(), None));
                Ok(read)
            }
            other => other,
        }
    }

    /// Reports that the mirror of a source is damaged, and that the node rebuilds the mirror.
    fn report_damage(name: &str, report: &mut RefreshReport) {
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
        let first = self.requests.fetch(mirror, floor).result;
        let is_damaged = first.as_ref().is_err_and(|error| matches!(**error, SourceError::Corrupt { .. }));
        let result = if is_damaged {
            Self::report_damage(name, report);
            self.requests.renew(mirror).and_then(|()| self.requests.fetch(mirror, floor).result)
        } else {
            first
        };
        match result {
            Ok(fetched) => {
                report.inputs.push(Input::Source(name.to_owned(), None));
                report.heads.insert(name.to_owned(), (fetched.commit.clone(), None));
                Some(fetched)
            }
            Err(error) => {
                Self::report_error(&error, name, report);
                None
            }
        }
    }

    fn report_error(error: &SourceError, name: &str, report: &mut RefreshReport) {
        report.worst = report.worst.max(RefreshResult::Unreachable);
        match error {
            SourceError::Pending { .. } => drop(report.pending.insert(name.to_owned(), error_chain(error))),
            _ => report.inputs.push(Input::Source(name.to_owned(), Some(reasons::of_error(error, name)))),
        }
    }

    /// Returns the accepted snapshot of a source from the mirror. Returns `None` if the source has no accepted commit,
    /// or if the mirror cannot be read.
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
                Self::report_error(&error, &source.git.name, report);
                None
            }
        }
    }

    /// Records the accepted commit of each source as a checkpoint. Checkpoints are in the journal, so a checkpoint
    /// survives the loss of a mirror. The checkpoint of a newly fetched commit contains the tag that selected the
    /// commit. The checkpoint of an unchanged commit keeps its tag. The checkpoint of a commit that other nodes
    /// accepted contains the highest tag of the commit.
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
            let known = known.filter(|checkpoint| checkpoint.origin == origin(source));
            let tag = match (report.heads.get(name).and_then(|(_, tag)| tag.clone()), &known) {
                (Some(tag), _) => Some(tag),
                (None, Some(checkpoint)) if checkpoint.commit == *commit => checkpoint.tag.clone(),
                (None, _) => {
                    let floor = known.as_ref().map(|checkpoint| checkpoint.commit.as_str());
                    self.mirror(source).tag_of(floor, commit, now).ok().flatten()
                }
            };
            let same = known.as_ref().filter(|checkpoint| checkpoint.commit == *commit);
            let unseen = !has_seen(source, &self.mirror(source), same, Some(commit));
            changes.put(name, &SourceCheckpoint { origin: origin(source), commit: commit.clone(), tag, unseen });
        }
    }
}

/// Selects one snapshot for each source. Returns `None` if a source has no snapshot.
fn choose(
    sources: &[Source],
    states: &BTreeMap<String, SourceState>,
    which: fn(&SourceState) -> Option<&Snapshot>,
) -> Option<Chosen> {
    sources
        .iter()
        .map(|source| Some((source.git.name.clone(), which(states.get(&source.git.name)?)?.clone())))
        .collect()
}

fn commits(chosen: &Chosen) -> BTreeMap<String, String> {
    chosen.iter().map(|(name, snapshot)| (name.clone(), snapshot.commit.clone())).collect()
}

impl RefreshReport {
    /// Records that the candidate waits for an answer of an include's git server.
    fn wait_for_include(&mut self, error: &SourceError) {
        self.worst = self.worst.max(RefreshResult::Unreachable);
        self.pending.insert("include".to_owned(), error_chain(error));
    }

    fn adopt(&mut self, loaded: Loaded, chosen: &Chosen, states: &BTreeMap<String, SourceState>) {
        self.commits = commits(chosen);
        self.set = Some(Arc::new(loaded.set));
        for (name, snapshot) in chosen {
            // A source that stays at its accepted commit keeps its accepted tag.
            let head =
                states.get(name).filter(|state| state.new.as_ref().is_some_and(|new| new.commit == snapshot.commit));
            if let Some((state, (_, tag))) = head.zip(self.heads.get_mut(name)) {
                tag.clone_from(&state.tag);
            }
        }
    }
}

pub(in crate::node) fn origin(source: &Source) -> String {
    format!("{} {:?}", source.git.url, source.git.reference)
}

/// Returns true if this node has found the accepted commit of a source at the ref on the git server. `checkpoint`
/// belongs to the accepted commit. Without its git server, a node can accept only commits of a branch, so all tags and
/// pinned commits count as found (P140).
fn has_seen(source: &Source, mirror: &Mirror, checkpoint: Option<&SourceCheckpoint>, accepted: Option<&str>) -> bool {
    let is_branch = matches!(source.git.reference, Reference::Branch(_));
    let shown = || accepted.is_none_or(|commit| mirror.has_shown(commit).unwrap_or(false));
    !is_branch || checkpoint.is_some_and(|checkpoint| !checkpoint.unseen) || shown()
}

/// Returns the sources of Config objects in git that `known` does not contain.
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
