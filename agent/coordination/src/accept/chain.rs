//! The chain of acceptances. Each record carries the link of the one before it, and the store keeps the links of the
//! last generations.
//!
//! Any node may write the acceptance record, so its number proves nothing by itself. A node follows a record if the
//! links lead from it to the node's own generation, one by one. It also follows one if the node was away for longer
//! than the store keeps links (P138).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Accepted, SCHEMA};
use crate::{
    keys,
    store::{Op, Page, Row, Store, StoreError},
};

/// The number of links that the store keeps (P24).
pub const KEPT: u64 = 1000;

/// The largest distance above the node's own generation of a record to which no chain leads. At one revision a second
/// this lasts for 136 years. A forged number can cost the fleet only this many of its 2^64 numbers. No number is so
/// high that a later acceptance is void.
pub const FARTHEST: u64 = 1 << 32;

/// The part of one acceptance that the chain keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Link {
    /// The number of the revision.
    pub generation: u64,
    /// The number of the acceptance before it.
    pub parent: u64,
    /// The digest of that acceptance's link. Empty for the first one.
    pub parent_digest: String,
    /// The digest of the rest of the record, without its signer.
    pub body: String,
    /// The node that accepted the revision.
    pub by: String,
}

impl Link {
    /// Returns the digest of the acceptance. It excludes the signer: two nodes that accept the same content make the
    /// same acceptance, and so does a node that restores another node's record.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in [
            self.generation.to_be_bytes().as_slice(),
            &self.parent.to_be_bytes(),
            self.parent_digest.as_bytes(),
            self.body.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// Returns the operation that writes the link. `None` for generation 0.
    pub(super) fn put(&self) -> Option<Op> {
        let bytes = serde_json::to_vec(self).ok().filter(|_| self.generation > 0)?;
        Some(Op::put(keys::link(self.generation), bytes))
    }
}

/// The relation of a record in the store to the acceptance on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No record.
    Nothing,
    /// The node's own record.
    Own,
    /// A record with a lower number than the node's own.
    Older,
    /// A record whose chain leads to the node's own generation.
    Sound,
    /// A record whose kept chain begins above the node's own generation.
    Apart,
    /// An invalid record, with the reason. Its number does not count, and it may be overwritten.
    Void(String),
}

/// Judges a record by its chain.
pub(super) fn standing(record: &Accepted, links: &BTreeMap<u64, Link>, disk: &Accepted) -> Standing {
    if record.generation == disk.generation && record.digest() == disk.digest() {
        return Standing::Own;
    }
    if let Some(why) = malformed(record, disk) {
        return Standing::Void(why);
    }
    let own = disk.generation;
    if record.generation < own {
        return Standing::Older;
    }
    let mut lowest = record.link();
    let mut below = record.before.clone();
    while let Some(link) = below {
        // A link with another number or content than its successor names is not part of the chain.
        let fits = lowest.generation.checked_sub(1) == Some(link.generation)
            && lowest.parent == link.generation
            && lowest.parent_digest == link.digest();
        if !fits {
            break;
        }
        lowest = link;
        if lowest.generation <= own {
            break;
        }
        below = lowest.generation.checked_sub(1).and_then(|number| links.get(&number)).cloned();
    }
    if lowest.parent <= own {
        return Standing::Sound;
    }
    let kept = links.get(&own).is_some_and(|link| own > 0 && link.digest() == disk.digest());
    if kept {
        return Standing::Void(format!(
            "no chain of acceptances leads from generation {} to {own}, which the store still keeps",
            record.generation
        ));
    }
    if record.generation.saturating_sub(own) > FARTHEST {
        return Standing::Void(format!("its number {} is more than {FARTHEST} above {own}", record.generation));
    }
    Standing::Apart
}

/// Returns the reason why a record cannot be an acceptance, whatever its chain is. `None` if it can.
fn malformed(record: &Accepted, disk: &Accepted) -> Option<String> {
    let Accepted { generation, parent, .. } = *record;
    if generation == 0 || parent.checked_add(1) != Some(generation) {
        return Some(format!("its number is {generation}, and its parent's is {parent}"));
    }
    let before = record.before.as_ref();
    if parent > 0 && before.is_none_or(|link| link.generation != parent || link.parent.checked_add(1) != Some(parent)) {
        return Some(format!("it does not carry the link of generation {parent}, its parent"));
    }
    if record.schema <= SCHEMA
        && let Some((source, commit)) = record.commits.iter().find(|(_, commit)| !is_commit_id(commit))
    {
        return Some(format!("its commit {commit:?} of the source {source:?} is not a commit id"));
    }
    // Generation 1 fixed these, and each acceptance repeats them (P18).
    let other = disk.generation > 0
        && !disk.origin.is_empty()
        && (record.origin != disk.origin || record.verify != disk.verify);
    other.then(|| "it names another first source, or another verify.mode, than the generations before it".to_owned())
}

fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads the links between a record and a node's own generation, at most as many as are kept.
pub(super) fn links(store: &dyn Store, record: &Accepted, own: u64) -> Result<BTreeMap<u64, Link>, StoreError> {
    let mut links = BTreeMap::new();
    // The record itself carries the link of its parent.
    if record.parent <= own {
        return Ok(links);
    }
    let lowest = own.max(record.generation.saturating_sub(KEPT + 1));
    let mut page = Page { after: Some(keys::link(lowest.saturating_sub(1))), ..Page::default() };
    loop {
        let read = store.read(keys::LINKS, &page)?;
        page.after = read.rows.last().map(|row| row.key.clone());
        let before = links.len();
        links.extend(read.rows.iter().filter_map(read_link).filter(|(number, _)| *number < record.generation));
        let past = links.len() == before || links.len() as u64 > KEPT;
        if !read.more || past {
            break;
        }
    }
    if own > 0 && lowest > own {
        let read = store.read(&keys::link(own), &Page { after: None, limit: 1 })?;
        links.extend(read.rows.iter().filter_map(read_link));
    }
    Ok(links)
}

fn read_link(row: &Row) -> Option<(u64, Link)> {
    let number: u64 = row.key.strip_prefix(keys::LINKS)?.parse().ok()?;
    let link: Link = serde_json::from_slice(&row.value).ok()?;
    (link.generation == number).then_some((number, link))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(parent: &Accepted, commit: char) -> Accepted {
        Accepted {
            schema: SCHEMA,
            generation: parent.generation + 1,
            commits: BTreeMap::from([("fleet".to_owned(), commit.to_string().repeat(40))]),
            parent: parent.generation,
            before: (parent.generation > 0).then(|| parent.link()),
            origin: "o".into(),
            ..Accepted::default()
        }
    }

    /// Returns the records of a number of generations, and their links.
    fn history(count: usize) -> (Vec<Accepted>, BTreeMap<u64, Link>) {
        let mut all = vec![Accepted::default()];
        for _ in 0..count {
            let next = record(&all[all.len() - 1], 'a');
            all.push(next);
        }
        let links = all.iter().skip(1).map(|record| (record.generation, record.link())).collect();
        (all, links)
    }

    #[test]
    fn record_is_sound_if_its_chain_leads_to_the_own_generation() {
        let (all, links) = history(9);
        for own in 0..=8 {
            assert_eq!(standing(&all[9], &links, &all[own]), Standing::Sound, "{own}");
        }
        assert_eq!(standing(&all[9], &links, &all[9]), Standing::Own);
        assert_eq!(standing(&all[4], &links, &all[9]), Standing::Older);
        assert_eq!(standing(&all[9], &BTreeMap::new(), &all[8]), Standing::Sound, "its parent needs no kept link");
    }

    #[test]
    fn record_with_a_forged_number_is_void() {
        let (all, links) = history(3);
        let own = &all[3];
        for number in [0, 3, 5, 1 << 40, FARTHEST + 4, 1 << 53, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let lazy = Accepted { generation: number, ..record(own, 'b') };
            assert!(matches!(standing(&lazy, &links, own), Standing::Void(_)), "{number}");
            // The same with a forged parent that has the right number.
            let parent = Accepted { generation: number.saturating_sub(1), ..record(own, 'c') };
            let parent = Accepted { parent: parent.generation.saturating_sub(1), ..parent };
            let forged = Accepted { generation: number, ..record(&parent.clone(), 'b') };
            let mut with_links = links.clone();
            with_links.insert(parent.generation, parent.link());
            let found = standing(&forged, &with_links, own);
            let fits = number == 3 || number == 5;
            assert_eq!(matches!(found, Standing::Void(_)), !fits, "{number}: {found:?}");
        }
    }

    #[test]
    fn record_beyond_the_kept_chain_is_apart_up_to_a_bound() {
        let (all, links) = history(30);
        let kept: BTreeMap<u64, Link> = links.into_iter().filter(|(number, _)| *number > 20).collect();
        assert_eq!(standing(&all[30], &kept, &all[5]), Standing::Apart);
        assert_eq!(standing(&all[30], &kept, &all[20]), Standing::Sound);
        let far = |number: u64| {
            let parent = Accepted { generation: number - 1, parent: number - 2, ..Accepted::default() };
            record(&parent, 'a')
        };
        assert_eq!(standing(&far(FARTHEST + 5), &kept, &all[5]), Standing::Apart);
        for number in [FARTHEST + 6, 1 << 53, u64::MAX] {
            assert!(matches!(standing(&far(number), &kept, &all[5]), Standing::Void(_)), "{number}");
        }
        // At any own number, a fleet can continue, and a node that was away can return.
        for own in [FARTHEST, 1 << 53, 1 << 62] {
            let at = far(own);
            assert_eq!(standing(&record(&at, 'b'), &kept, &at), Standing::Sound, "{own}");
            assert_eq!(standing(&far(own + 5000), &kept, &at), Standing::Apart, "{own}");
        }
    }

    #[test]
    fn gap_in_the_kept_chain_is_void_for_those_whose_link_is_kept() {
        let (all, mut links) = history(9);
        links.remove(&6);
        assert!(matches!(standing(&all[9], &links, &all[4]), Standing::Void(_)));
        assert_eq!(standing(&all[9], &links, &all[7]), Standing::Sound);
        let (all, mut links) = history(9);
        links.get_mut(&6).unwrap().body = "other".into();
        assert!(matches!(standing(&all[9], &links, &all[4]), Standing::Void(_)), "a link with another content");
    }

    #[test]
    fn record_with_another_origin_or_no_commit_id_is_void() {
        let (all, links) = history(1);
        let next = record(&all[1], 'b');
        assert_eq!(standing(&next, &links, &all[1]), Standing::Sound);
        for (source, commit) in [("fleet", "main"), ("fleet", ""), ("fleet", "fff"), ("other", "../../../x")] {
            let commits = BTreeMap::from([(source.to_owned(), commit.to_owned())]);
            let forged = Accepted { commits, ..next.clone() };
            assert!(matches!(standing(&forged, &links, &all[1]), Standing::Void(_)), "{commit}");
        }
        let origin = Accepted { origin: "elsewhere".into(), ..next.clone() };
        assert!(matches!(standing(&origin, &links, &all[1]), Standing::Void(_)));
        let stricter = Accepted { verify: super::super::VerifyPolicy::Range, ..next };
        assert!(matches!(standing(&stricter, &links, &all[1]), Standing::Void(_)));
    }
}
