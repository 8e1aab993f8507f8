//! Checks newly fetched packs before other code reads objects of the packs.
//!
//! To read an object at the end of a delta chain, git must read the whole chain. The child process rejects packs with
//! long delta chains, so that the agent itself can read every object at a low cost.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use gix::{ObjectId, Repository, objs::Kind};
use gix_pack::{data, index};

use crate::{SourceError, repo::BareRepo};

/// The maximum number of deltas in a delta chain. Git has the same maximum.
const LONGEST_CHAIN: u64 = 4095;

/// The maximum size of a commit or a tag, in bytes. The agent itself reads commits and tags before their signatures
/// are verified.
const LARGEST_COMMIT: u64 = 1 << 20;

/// The packs and the ref of a mirror before a fetch. A later check compares the recorded packs with the packs of the
/// mirror, to find the packs that the fetch has added.
#[derive(Debug)]
pub(crate) struct Audit<'a> {
    repo: &'a BareRepo,
    before: BTreeSet<PathBuf>,
    reference: Option<(String, Option<ObjectId>)>,
}

impl<'a> Audit<'a> {
    /// Records the packs of a mirror before a fetch, and the ref that the fetch will write.
    pub(crate) fn begin(repo: &'a BareRepo, spec: &str) -> Result<Self, SourceError> {
        let name = spec.split_once(':').map(|(_, name)| name.to_owned());
        let repository = repo.open()?;
        let reference = name.map(|name| {
            let target = target(&repository, &name);
            (name, target)
        });
        Ok(Self { repo, before: indexes(repo), reference })
    }

    /// Checks the packs that the fetch has added since the call of `begin`. If a pack is rejected, all added packs are
    /// removed, and the ref that the fetch has written is restored.
    ///
    /// # Errors
    /// Returns an error if a delta chain is too long or too costly, or if a commit or tag is too large.
    pub(crate) fn check(&self) -> Result<(), SourceError> {
        let new: Vec<PathBuf> = indexes(self.repo).difference(&self.before).cloned().collect();
        let repository = self.repo.open()?;
        let checked = new.iter().try_for_each(|index| {
            let known = chains(index, self.repo.options.limits.object)?;
            commits(index, &known, &repository)
        });
        checked.map_err(|limit| {
            for index in &new {
                for ending in ["idx", "pack", "keep"] {
                    let _ = fs::remove_file(index.with_extension(ending));
                }
            }
            self.put_back();
            self.repo.too_much(limit)
        })
    }

    /// Sets the ref back to the commit that the ref named before the fetch.
    fn put_back(&self) {
        let (Some((name, target)), Ok(repository)) = (&self.reference, self.repo.open()) else {
            return;
        };
        match target {
            Some(target) => {
                let any = gix::refs::transaction::PreviousValue::Any;
                let _ = repository.reference(name.as_str(), *target, any, "the fetch was refused");
            }
            None => {
                if let Ok(Some(reference)) = repository.try_find_reference(name.as_str()) {
                    let _ = reference.delete();
                }
            }
        }
    }
}

fn target(repository: &Repository, name: &str) -> Option<ObjectId> {
    repository.try_find_reference(name).ok()??.try_id().map(gix::Id::detach)
}

/// Returns the paths of the pack indexes in a mirror.
fn indexes(repo: &BareRepo) -> BTreeSet<PathBuf> {
    repo.pack_files().into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "idx")).collect()
}

/// The cost to read one object of a pack: the length and the bytes of the object's delta chain.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    length: u64,
    bytes: u64,
    kind: Option<Kind>,
}

/// Checks the size of each commit and tag in a pack, because a delta of a few bytes can produce a large object.
///
/// # Errors
/// If a limit is exceeded, returns an error text that names the limit.
fn commits(path: &Path, known: &HashMap<u64, Chain>, repository: &Repository) -> Result<(), String> {
    let index = index::File::at(path, gix::hash::Kind::Sha1).map_err(|_| "a damaged pack".to_owned())?;
    for entry in index.iter() {
        let chain = known.get(&entry.pack_offset).copied().unwrap_or_default();
        if !matches!(chain.kind, Some(Kind::Commit | Kind::Tag)) {
            continue;
        }
        let size = match chain.length {
            1 => chain.bytes,
            _ => repository.find_header(entry.oid).map_err(|_| "a damaged pack".to_owned())?.size(),
        };
        if size > LARGEST_COMMIT {
            return Err(format!("{} MiB for one commit or tag", LARGEST_COMMIT >> 20));
        }
    }
    Ok(())
}

/// Checks the delta chains in a pack, and returns the cost to read each object, by the offset of the object in the
/// pack.
///
/// # Errors
/// If a limit is exceeded, returns an error text that names the limit.
fn chains(path: &Path, most: u64) -> Result<HashMap<u64, Chain>, String> {
    let damaged = |_| "a damaged pack".to_owned();
    let index = index::File::at(path, gix::hash::Kind::Sha1).map_err(damaged)?;
    let pack = data::File::at(path.with_extension("pack"), gix::hash::Kind::Sha1).map_err(damaged)?;
    let mut known: HashMap<u64, Chain> = HashMap::new();
    for offset in index.sorted_offsets() {
        // The offsets and sizes of the objects from the current object to the first object with a known chain.
        let mut way: Vec<(u64, u64)> = Vec::new();
        let mut at = Some(offset);
        let mut chain = Chain::default();
        while let Some(offset) = at {
            if let Some(found) = known.get(&offset) {
                chain = *found;
                break;
            }
            if way.len() as u64 > LONGEST_CHAIN {
                return Err(format!("a chain of {LONGEST_CHAIN} deltas"));
            }
            let entry = pack.entry(offset).map_err(damaged)?;
            way.push((offset, entry.decompressed_size));
            chain.kind = entry.header.as_kind();
            at = match entry.header {
                data::entry::Header::OfsDelta { base_distance } => {
                    let base = data::entry::Header::verified_base_pack_offset(offset, base_distance);
                    Some(base.ok_or("a damaged pack")?)
                }
                data::entry::Header::RefDelta { base_id } => {
                    let at = index.lookup(base_id).ok_or("a delta without its base")?;
                    Some(index.pack_offset_at_index(at))
                }
                _ => None,
            };
        }
        for (offset, bytes) in way.into_iter().rev() {
            chain.length = chain.length.saturating_add(1);
            chain.bytes = chain.bytes.saturating_add(bytes);
            if chain.length > LONGEST_CHAIN {
                return Err(format!("a chain of {LONGEST_CHAIN} deltas"));
            }
            if chain.bytes > most.saturating_mul(2) {
                return Err(format!("{} MiB of deltas for one object", most >> 19));
            }
            known.insert(offset, chain);
        }
    }
    Ok(known)
}
