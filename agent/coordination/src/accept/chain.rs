//! Acceptance records form a chain: each record contains the link (the main fields) of the preceding record. The store
//! keeps the links of the newest 1,000 acceptances.
//!
//! Any node may write an acceptance record, so the other nodes cannot trust the generation number in the record. A node
//! follows a record if a complete chain of links leads from the record to the acceptance on the node's disk. A node may
//! also follow a record if the store has deleted the link of the acceptance on the node's disk (P138).

use std::collections::BTreeMap;

use super::{
    link::Link,
    record::{Accepted, SCHEMA},
};
use crate::{
    keys,
    store::{Page, Row, Store, StoreError},
};

/// The number of acceptance links that the store keeps (P24).
pub const LINKS_KEPT: u64 = 1000;

/// The maximum difference between the generation of a record without a chain and the generation on the node's disk. A
/// fleet with one acceptance a second needs 136 years for 2^32 generations. Because of the maximum, a forged record
/// cannot use up the 2^64 generation numbers.
pub const FARTHEST: u64 = 1 << 32;

/// The result of the comparison between the acceptance record in the store and the acceptance record on a node's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// The store has no acceptance record.
    Nothing,
    /// The record in the store is the same as the record on the node's disk.
    Own,
    /// The record in the store has a lower generation than the record on the node's disk.
    Older,
    /// A chain of links leads from the record in the store to the record on the node's disk.
    Sound,
    /// The node cannot check the chain, because the store has deleted the link of the acceptance on the node's disk.
    Apart,
    /// The record in the store is invalid, for the reason that the variant contains. Nodes ignore the generation of an
    /// invalid record, and may overwrite the record.
    Void(String),
}

/// Compares the acceptance record in the store with the record on a node's disk, by the links in the store.
pub(super) fn relation(record: &Accepted, links: &BTreeMap<u64, Link>, disk: &Accepted) -> Relation {
    if record.id() == disk.id() {
        return Relation::Own;
    }
    if let Some(why) = malformed(record, disk) {
        return Relation::Void(why);
    }
    let own = disk.generation;
    if record.generation < own {
        return Relation::Older;
    }
    let mut lowest = record.link();
    let mut below = record.before.clone();
    while let Some(link) = below {
        // A link is part of the chain only if its successor contains its generation and its digest.
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
        return Relation::Sound;
    }
    let kept = links.get(&own).is_some_and(|link| own > 0 && link.digest() == disk.digest());
    if kept {
        return Relation::Void(format!(
            "no chain of acceptances leads from generation {} to generation {own}, although the data store still has the link of generation {own}",
            record.generation
        ));
    }
    if record.generation.saturating_sub(own) > FARTHEST {
        return Relation::Void(format!(
            "generation {} is more than {FARTHEST} above generation {own} of this node",
            record.generation
        ));
    }
    Relation::Apart
}

/// Returns the reason why the fields of an acceptance record are invalid. The function does not check the chain of
/// links. `None` if the fields are valid.
fn malformed(record: &Accepted, disk: &Accepted) -> Option<String> {
    let Accepted { generation, parent, .. } = *record;
    if generation == 0 || parent.checked_add(1) != Some(generation) {
        return Some(format!(
            "the record has generation {generation} and parent {parent}, but the generation must be the parent plus 1"
        ));
    }
    let before = record.before.as_ref();
    if parent > 0 && before.is_none_or(|link| link.generation != parent || link.parent.checked_add(1) != Some(parent)) {
        return Some(format!("the record does not contain the link of its parent, generation {parent}"));
    }
    if record.schema <= SCHEMA
        && let Some((source, commit)) = record.commits.iter().find(|(_, commit)| !is_commit_id(commit))
    {
        return Some(format!("the commit {commit:?} of the source {source:?} is not a commit id"));
    }
    // Generation 1 fixed the first source and its verification policy, and each acceptance repeats them (P18).
    let other = disk.generation > 0
        && !disk.origin.is_empty()
        && (record.origin != disk.origin || record.verify != disk.verify);
    other.then(|| {
        "the record names another first source, or another verify.mode, than the earlier generations".to_owned()
    })
}

fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads the links between a record in the store and the generation on this node's disk, but at most `LINKS_KEPT`
/// links.
pub(super) fn links(store: &dyn Store, record: &Accepted, own: u64) -> Result<BTreeMap<u64, Link>, StoreError> {
    let mut links = BTreeMap::new();
    // The record itself contains the link of its parent, so no read is needed.
    if record.parent <= own {
        return Ok(links);
    }
    let lowest = own.max(record.generation.saturating_sub(LINKS_KEPT + 1));
    let mut page = Page { after: Some(keys::link(lowest.saturating_sub(1))), ..Page::default() };
    loop {
        let read = store.read(keys::LINKS, &page)?;
        page.after = read.rows.last().map(|row| row.key.clone());
        let before = links.len();
        links.extend(read.rows.iter().filter_map(read_link).filter(|(number, _)| *number < record.generation));
        let past = links.len() == before || links.len() as u64 > LINKS_KEPT;
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

    /// Returns the acceptance records of the first `count` generations, and the links of these records.
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
            assert_eq!(relation(&all[9], &links, &all[own]), Relation::Sound, "{own}");
        }
        assert_eq!(relation(&all[9], &links, &all[9]), Relation::Own);
        assert_eq!(relation(&all[4], &links, &all[9]), Relation::Older);
        assert_eq!(relation(&all[9], &BTreeMap::new(), &all[8]), Relation::Sound, "its parent needs no kept link");
    }

    #[test]
    fn record_with_a_forged_number_is_void() {
        let (all, links) = history(3);
        let own = &all[3];
        for number in [0, 3, 5, 1 << 40, FARTHEST + 4, 1 << 53, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
            let lazy = Accepted { generation: number, ..record(own, 'b') };
            assert!(matches!(relation(&lazy, &links, own), Relation::Void(_)), "{number}");
            // A forged record is void even if its forged parent has the right generation.
            let parent = Accepted { generation: number.saturating_sub(1), ..record(own, 'c') };
            let parent = Accepted { parent: parent.generation.saturating_sub(1), ..parent };
            let forged = Accepted { generation: number, ..record(&parent.clone(), 'b') };
            let mut with_links = links.clone();
            with_links.insert(parent.generation, parent.link());
            let found = relation(&forged, &with_links, own);
            let fits = number == 3 || number == 5;
            assert_eq!(matches!(found, Relation::Void(_)), !fits, "{number}: {found:?}");
        }
    }

    #[test]
    fn record_beyond_the_kept_chain_is_apart_up_to_a_bound() {
        let (all, links) = history(30);
        let kept: BTreeMap<u64, Link> = links.into_iter().filter(|(number, _)| *number > 20).collect();
        assert_eq!(relation(&all[30], &kept, &all[5]), Relation::Apart);
        assert_eq!(relation(&all[30], &kept, &all[20]), Relation::Sound);
        let far = |number: u64| {
            let parent = Accepted { generation: number - 1, parent: number - 2, ..Accepted::default() };
            record(&parent, 'a')
        };
        assert_eq!(relation(&far(FARTHEST + 5), &kept, &all[5]), Relation::Apart);
        for number in [FARTHEST + 6, 1 << 53, u64::MAX] {
            assert!(matches!(relation(&far(number), &kept, &all[5]), Relation::Void(_)), "{number}");
        }
        // Whatever its own generation is, a fleet can accept the next one, and a node that was away can return.
        for own in [FARTHEST, 1 << 53, 1 << 62] {
            let at = far(own);
            assert_eq!(relation(&record(&at, 'b'), &kept, &at), Relation::Sound, "{own}");
            assert_eq!(relation(&far(own + 5000), &kept, &at), Relation::Apart, "{own}");
        }
    }

    #[test]
    fn gap_in_the_kept_chain_is_void_for_those_whose_link_is_kept() {
        let (all, mut links) = history(9);
        links.remove(&6);
        assert!(matches!(relation(&all[9], &links, &all[4]), Relation::Void(_)));
        assert_eq!(relation(&all[9], &links, &all[7]), Relation::Sound);
        let (all, mut links) = history(9);
        links.get_mut(&6).unwrap().body = "other".into();
        assert!(matches!(relation(&all[9], &links, &all[4]), Relation::Void(_)), "a link with another content");
    }

    #[test]
    fn record_with_another_origin_or_no_commit_id_is_void() {
        let (all, links) = history(1);
        let next = record(&all[1], 'b');
        assert_eq!(relation(&next, &links, &all[1]), Relation::Sound);
        for (source, commit) in [("fleet", "main"), ("fleet", ""), ("fleet", "fff"), ("other", "../../../x")] {
            let commits = BTreeMap::from([(source.to_owned(), commit.to_owned())]);
            let forged = Accepted { commits, ..next.clone() };
            assert!(matches!(relation(&forged, &links, &all[1]), Relation::Void(_)), "{commit}");
        }
        let origin = Accepted { origin: "elsewhere".into(), ..next.clone() };
        assert!(matches!(relation(&origin, &links, &all[1]), Relation::Void(_)));
        let stricter = Accepted { verify: super::super::VerifyPolicy::Range, ..next };
        assert!(matches!(relation(&stricter, &links, &all[1]), Relation::Void(_)));
    }
}
