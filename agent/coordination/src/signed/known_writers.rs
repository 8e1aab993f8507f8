//! Remembers the public key of each node that writes records, and the number of the node's newest record at each store
//! key. The journal keeps the public keys and the numbers, so that a node also rejects a replayed record after a
//! restart (P144).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use towpath_state::{Record, kinds};

/// The maximum number of writers that this node remembers.
const WRITERS: usize = 20_000;
/// The maximum number of store keys for which this node remembers the newest record number of one writer. If a writer
/// has records at more than `KEYS` store keys, this node forgets `FORGOTTEN` record numbers at once.
const KEYS: usize = 8192;
const FORGOTTEN: usize = 1024;
/// The maximum number of former public keys that this node remembers for one writer.
const FORMER: usize = 8;

/// The data that this node remembers about one writer of records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownWriter {
    /// The public key that verifies the signatures of the writer.
    pub sign: [u8; 32],
    /// The former public keys of the writer, which commits have replaced.
    pub former: Vec<[u8; 32]>,
    /// The highest number of a record of the writer that this node has read.
    pub highest: u64,
    /// The number of the writer's newest record at each store key, by a hash of the store key.
    pub keys: HashMap<u64, u64>,
    /// The highest record number that this node has removed from `keys`. If a store key is not in `keys`, only a record
    /// with a higher number than `forgotten` is accepted.
    pub forgotten: u64,
    /// The hashes of the store keys that this node has read recently.
    #[serde(skip)]
    seen: HashSet<u64>,
}

impl Record for KnownWriter {
    type Kind = kinds::Writer;
}

impl KnownWriter {
    /// Forgets some record numbers of the writer. The function begins with the lowest numbers at store keys that this
    /// node has not read recently.
    fn forget(&mut self, fixed: &[u64]) {
        let movable = self.keys.iter().filter(|(key, _)| !fixed.contains(key));
        let mut all: Vec<(bool, u64, u64)> =
            movable.map(|(key, number)| (self.seen.contains(key), *number, *key)).collect();
        all.sort_unstable();
        for (_, number, key) in all.into_iter().take(FORGOTTEN) {
            self.keys.remove(&key);
            self.forgotten = self.forgotten.max(number);
        }
        self.seen.clear();
    }
}

/// Returns the hashes of the store keys whose record numbers this node never forgets. A record that rarely changes may
/// have a low number and still be valid.
fn fixed(name: &str) -> [u64; 8] {
    [
        crate::keys::joined(name),
        crate::keys::agent(name),
        crate::keys::write_sequence(name),
        crate::keys::alive(name),
        crate::keys::state(name),
        crate::keys::facts(name),
        format!("{}{name}", crate::keys::ALL_RECOVERIES),
        crate::keys::ACCEPTED.to_owned(),
    ]
    .map(|key| hash(&key))
}

/// The data that this node remembers about all writers of records.
#[derive(Debug, Default)]
pub(super) struct Writers {
    known: BTreeMap<String, KnownWriter>,
    /// The writers whose data has changed since the last write to the journal.
    dirty: BTreeSet<String>,
}

impl Writers {
    pub(super) fn load(&mut self, heard: impl IntoIterator<Item = (String, KnownWriter)>) {
        for (name, heard) in heard {
            self.known.entry(name).or_insert(heard);
        }
    }

    pub(super) fn of(&self, name: &str) -> Option<&KnownWriter> {
        self.known.get(name)
    }

    /// Sets the public key of a writer. The previous public key becomes a former key of the writer. Returns false if
    /// this node already remembers the maximum number of writers.
    pub(super) fn pin(&mut self, name: &str, key: [u8; 32]) -> bool {
        let full = self.known.len() >= WRITERS;
        match self.known.get_mut(name) {
            Some(heard) if heard.sign == key => return true,
            Some(heard) => {
                let before = std::mem::replace(&mut heard.sign, key);
                heard.former.retain(|former| *former != key && *former != before);
                heard.former.push(before);
                let more = heard.former.len().saturating_sub(FORMER);
                heard.former.drain(..more);
                // The numbers start from zero with a new public key.
                heard.keys.clear();
                heard.seen.clear();
                (heard.highest, heard.forgotten) = (0, 0);
            }
            None if full => return false,
            None => drop(self.known.insert(name.to_owned(), KnownWriter { sign: key, ..KnownWriter::default() })),
        }
        self.dirty.insert(name.to_owned());
        true
    }

    /// Remembers the number of a writer's record at a store key. Returns false if the number is so low that the record
    /// may be a replay.
    pub(super) fn take(&mut self, name: &str, key: &str, number: u64) -> bool {
        let Some(heard) = self.known.get_mut(name) else { return false };
        let key = hash(key);
        match heard.keys.get_mut(&key) {
            Some(known) if *known > number => return false,
            Some(known) if *known == number => {
                heard.seen.insert(key);
                return true;
            }
            Some(known) => *known = number,
            None if number <= heard.forgotten && !fixed(name).contains(&key) => return false,
            None => {
                heard.keys.insert(key, number);
                // The memory must soon remove numbers, so it begins to record which store keys are still read.
                if heard.keys.len() == KEYS - FORGOTTEN {
                    heard.seen.clear();
                }
            }
        }
        heard.seen.insert(key);
        if heard.keys.len() > KEYS {
            heard.forget(&fixed(name));
        }
        heard.highest = heard.highest.max(number);
        self.dirty.insert(name.to_owned());
        true
    }

    /// Returns the number of writers whose data has changed since the last write to the journal.
    pub(super) fn changed(&self) -> usize {
        self.dirty.len()
    }

    /// Returns the writers whose data has changed since the previous call.
    pub(super) fn take_changed(&mut self) -> Vec<(String, KnownWriter)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().filter_map(|name| Some((name.clone(), self.known.get(&name)?.clone()))).collect()
    }
}

fn hash(key: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(key).into();
    let (first, _) = digest.split_at(8);
    first.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replayed_record_is_rejected_also_after_a_restart() {
        let mut writers = Writers::default();
        assert!(writers.pin("a", [1; 32]));
        assert!(writers.take("a", "x", 5) && writers.take("a", "y", 9) && writers.take("a", "x", 7));
        assert!(!writers.take("a", "x", 5), "older than the one at that key");
        assert!(writers.take("a", "x", 7), "the same again");
        assert!(writers.take("a", "z", 6), "an older one at another key, which was not read before");
        let kept = writers.take_changed();
        assert!(writers.take_changed().is_empty());
        assert!(writers.take("a", "x", 7) && writers.changed() == 0, "nothing new is nothing to write");
        let kept = kept
            .into_iter()
            .map(|(name, heard)| (name, serde_json::from_slice(&serde_json::to_vec(&heard).unwrap()).unwrap()));
        let mut again = Writers::default();
        again.load(kept);
        assert!(!again.take("a", "x", 5) && again.take("a", "x", 7));
    }

    #[test]
    fn ten_thousand_writers_are_all_remembered() {
        let mut writers = Writers::default();
        for number in 0..10_000_u64 {
            let name = format!("n{number}");
            assert!(writers.pin(&name, [1; 32]) && writers.take(&name, "x", 10));
        }
        assert!((0..10_000_u64).all(|number| !writers.take(&format!("n{number}"), "x", 9)));
    }

    #[test]
    fn writer_of_any_number_of_keys_is_believed_and_none_of_its_old_records_is() {
        let mut writers = Writers::default();
        writers.pin("a", [1; 32]);
        assert!(writers.take("a", &crate::keys::joined("a"), 1) && writers.take("a", "claim", 2));
        for number in 3..50_000_u64 {
            assert!(writers.take("a", &format!("k{number}"), number), "{number}");
            assert!(writers.take("a", "claim", 2), "what is read again and again is not forgotten");
        }
        let heard = writers.of("a").unwrap().clone();
        assert!(heard.keys.len() <= KEYS && heard.seen.len() <= KEYS);
        let mut again = Writers::default();
        again.load([("a".to_owned(), serde_json::from_slice(&serde_json::to_vec(&heard).unwrap()).unwrap())]);
        for writers in [&mut writers, &mut again] {
            assert!(writers.take("a", &crate::keys::joined("a"), 1));
            assert!(!writers.take("a", "k3", 3) && !writers.take("a", "never read", 4), "it may have been put back");
            assert!(writers.take("a", "k3", 60_000) && !writers.take("a", "k3", 3));
        }
    }

    #[test]
    fn new_key_begins_with_numbers_of_its_own() {
        let mut writers = Writers::default();
        writers.pin("a", [1; 32]);
        writers.take("a", "x", 100);
        writers.pin("a", [2; 32]);
        assert!(writers.take("a", "x", 1));
        assert_eq!(writers.of("a").unwrap().former, [[1; 32]]);
    }
}
