//! Elections: one target runs a task, and all of them get what came of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Fleet;
use crate::{
    keys,
    rollout::{OnLost, Spec},
    store::{Compare, Op, Outcome, Page, StoreError, Txn},
};

/// Who was elected for a task, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elected {
    /// The digest of the task and of the variables that it reads: the result stands until that changes.
    pub definition: String,
    /// The elected nodes, each with its result.
    pub nodes: BTreeMap<String, Option<Share>>,
}

/// What came of an elected task on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Whether it succeeded.
    pub ok: bool,
    /// Its result.
    pub result: Value,
    /// What there is to say.
    pub message: Option<String>,
}

/// What a node does about an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Election {
    /// It runs the task.
    Run,
    /// It waits for these.
    Wait(Vec<String>),
    /// All elected nodes have a result.
    Results(BTreeMap<String, Share>),
}

/// What an election goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidacy<'a> {
    pub(super) spec: &'a Spec,
    pub(super) me: &'a str,
    pub(super) eligible: bool,
    pub(super) count: usize,
    pub(super) definition: &'a str,
    pub(super) lost: &'a [String],
}

/// Decides: what the node does, or the record that it writes first.
pub(super) fn decide(record: Option<&Elected>, candidacy: &Candidacy<'_>) -> Result<Election, Elected> {
    let Candidacy { spec, me, eligible, count, definition, lost } = candidacy;
    let mut standing = record
        .filter(|record| record.definition == *definition)
        .cloned()
        .unwrap_or_else(|| Elected { definition: (*definition).to_owned(), nodes: BTreeMap::new() });
    // Who git no longer knows as a target, and under `skip` who is lost, makes room for the next arrival.
    standing.nodes.retain(|node, share| {
        share.as_ref().is_some_and(|share| share.ok)
            || spec.selects(node) && !(spec.on_lost == OnLost::Skip && lost.contains(node))
    });
    if standing.nodes.get(*me).is_some_and(|share| share.as_ref().is_none_or(|share| !share.ok)) {
        // Its own failure is tried again like every other.
        return Ok(Election::Run);
    }
    if standing.nodes.len() >= *count {
        let results: Option<BTreeMap<String, Share>> =
            standing.nodes.iter().map(|(node, share)| Some((node.clone(), share.clone()?))).collect();
        return Ok(match results {
            Some(results) => Election::Results(results),
            None => {
                let open = standing.nodes.into_iter().filter(|(_, share)| share.is_none());
                Election::Wait(open.map(|(node, _)| node).collect())
            }
        });
    }
    if *eligible && !standing.nodes.contains_key(*me) {
        standing.nodes.insert((*me).to_owned(), None);
        return Err(standing);
    }
    Ok(Election::Wait(Vec::new()))
}

impl Fleet {
    /// Takes part in the election for a task.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn elect(
        &self,
        spec: &Spec,
        task: &str,
        definition: &str,
        eligible: bool,
        count: usize,
    ) -> Result<Election, StoreError> {
        let key = keys::elected(&spec.book, task);
        let lost: Vec<String> = if spec.on_lost == OnLost::Skip {
            let alive = self.alive()?;
            let gone = |node: &&String| !alive.contains(*node) && self.agrees_lost(node);
            spec.members.keys().filter(gone).cloned().collect()
        } else {
            Vec::new()
        };
        loop {
            let (record, modified) = self.elected(&key)?;
            let candidacy = Candidacy { spec, me: &self.node, eligible, count, definition, lost: &lost };
            let next = match decide(record.as_ref(), &candidacy) {
                Ok(election) => return Ok(election),
                Err(next) => next,
            };
            let accepted = self.look(spec)?.current(spec);
            let Some(accepted) = accepted else { return Ok(Election::Wait(Vec::new())) };
            let compare = vec![
                Compare::Revision(keys::ACCEPTED.to_owned(), accepted),
                modified.map_or_else(|| Compare::Absent(key.clone()), |at| Compare::Revision(key.clone(), at)),
            ];
            let then = vec![Op::put(key.clone(), serde_json::to_vec(&next).unwrap_or_default())];
            self.store.commit(&Txn { compare, then, otherwise: Vec::new() })?;
        }
    }

    /// Says what came of an elected task.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn share(&self, spec: &Spec, task: &str, definition: &str, share: &Share) -> Result<(), StoreError> {
        let key = keys::elected(&spec.book, task);
        loop {
            let (record, modified) = self.elected(&key)?;
            let mut next = record.filter(|record| record.definition == definition).unwrap_or_default();
            next.definition = definition.to_owned();
            next.nodes.insert(self.node.clone(), Some(share.clone()));
            let compare =
                vec![modified.map_or_else(|| Compare::Absent(key.clone()), |at| Compare::Revision(key.clone(), at))];
            let then = vec![
                Op::put(key.clone(), serde_json::to_vec(&next).unwrap_or_default()),
                Op::put(keys::result_notice(&spec.book, task), b"{}".to_vec()),
            ];
            if let Outcome::Done { .. } = self.store.commit(&Txn { compare, then, otherwise: Vec::new() })? {
                return Ok(());
            }
        }
    }

    fn elected(&self, key: &str) -> Result<(Option<Elected>, Option<u64>), StoreError> {
        let rows = self.store.read(key, &Page { after: None, limit: 1 })?.rows;
        let row = rows.into_iter().find(|row| row.key == key);
        let record = row.as_ref().and_then(|row| serde_json::from_slice(&row.value).ok());
        Ok((record, row.map(|row| row.modified)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let members = ["a", "b"].map(|node| (node.to_owned(), 0)).into();
        Spec { book: "n/b".into(), members, waves: 1, on_lost: OnLost::Skip, ..Spec::default() }
    }

    fn go(record: Option<&Elected>, me: &str, definition: &str, lost: &[String]) -> Result<Election, Elected> {
        let spec = spec();
        decide(record, &Candidacy { spec: &spec, me, eligible: true, count: 1, definition, lost })
    }

    #[test]
    fn the_first_to_come_is_elected_and_its_result_stands_until_the_task_changes() {
        let record = go(None, "a", "d1", &[]).unwrap_err();
        assert_eq!(go(Some(&record), "a", "d1", &[]), Ok(Election::Run));
        assert_eq!(go(Some(&record), "b", "d1", &[]), Ok(Election::Wait(vec!["a".into()])));
        let share = Share { ok: true, result: Value::from(7), message: None };
        let mut done = record.clone();
        done.nodes.insert("a".into(), Some(share.clone()));
        assert_eq!(go(Some(&done), "b", "d1", &[]), Ok(Election::Results([("a".to_owned(), share)].into())));
        assert!(go(Some(&done), "b", "d2", &[]).unwrap_err().nodes.contains_key("b"));
    }

    #[test]
    fn who_is_lost_under_skip_or_is_no_target_makes_room() {
        let record = go(None, "a", "d1", &[]).unwrap_err();
        assert!(go(Some(&record), "b", "d1", &["a".into()]).unwrap_err().nodes.contains_key("b"));
        let mut gone = record;
        gone.nodes = [("removed".to_owned(), None)].into();
        assert!(go(Some(&gone), "b", "d1", &[]).unwrap_err().nodes.contains_key("b"));
    }
}
