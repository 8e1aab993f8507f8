//! Converts store operations into etcd requests, and etcd answers into results of the store.

use etcd_client as etcd;

use crate::store::{Answer, Compare, Op, Outcome, Page, Row, Txn};

/// The prefix that all keys of a fleet have in etcd.
#[derive(Debug, Clone)]
pub(super) struct Prefix(pub(super) String);

impl Prefix {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.0)
    }

    pub(super) fn row(&self, pair: &etcd::KeyValue) -> Row {
        let key = String::from_utf8_lossy(pair.key());
        Row {
            key: key.strip_prefix(&self.0).unwrap_or(&key).to_owned(),
            value: pair.value().to_vec(),
            created: pair.create_revision().unsigned_abs(),
            modified: pair.mod_revision().unsigned_abs(),
        }
    }

    /// Returns the first key and the options of the etcd request that reads one page of rows.
    pub(super) fn page(&self, prefix: &str, page: &Page) -> (String, etcd::GetOptions) {
        let from = page.after.as_ref().map_or_else(|| self.key(prefix), |after| format!("{}\0", self.key(after)));
        let options = etcd::GetOptions::new()
            .with_range(end(&self.key(prefix)))
            .with_limit(number(page.limit as u64))
            .with_sort(etcd::SortTarget::Key, etcd::SortOrder::Ascend);
        (from, options)
    }

    /// Converts a transaction of the store into a transaction of etcd. `fence` contains the store key and the expected
    /// etcd revision of the fence. If the fence has changed, etcd does not execute the transaction, and the last answer
    /// contains the fence.
    pub(super) fn transaction(&self, txn: &Txn, fence: Option<(&str, i64)>) -> etcd::Txn {
        let mut compare: Vec<etcd::Compare> = txn.compare.iter().map(|compare| self.compare(compare)).collect();
        let mut otherwise: Vec<etcd::TxnOp> = txn.otherwise.iter().map(|operation| self.operation(operation)).collect();
        if let Some((key, revision)) = fence {
            compare.push(etcd::Compare::mod_revision(self.key(key), etcd::CompareOp::Equal, revision));
            otherwise.push(etcd::TxnOp::get(self.key(key), None));
        }
        etcd::Txn::new()
            .when(compare)
            .and_then(txn.then.iter().map(|operation| self.operation(operation)).collect::<Vec<_>>())
            .or_else(otherwise)
    }

    fn compare(&self, compare: &Compare) -> etcd::Compare {
        match compare {
            Compare::Absent(key) => etcd::Compare::create_revision(self.key(key), etcd::CompareOp::Equal, 0),
            Compare::Revision(key, revision) => {
                etcd::Compare::mod_revision(self.key(key), etcd::CompareOp::Equal, number(*revision))
            }
            Compare::NoneNewer(prefix, revision) => {
                etcd::Compare::mod_revision(self.key(prefix), etcd::CompareOp::Less, number(revision.saturating_add(1)))
                    .with_prefix()
            }
        }
    }

    fn operation(&self, operation: &Op) -> etcd::TxnOp {
        match operation {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| etcd::PutOptions::new().with_lease(number(lease.0)));
                etcd::TxnOp::put(self.key(key), value.clone(), options)
            }
            Op::Delete(key) => etcd::TxnOp::delete(self.key(key), None),
            Op::DeleteAll(prefix) => {
                etcd::TxnOp::delete(self.key(prefix), Some(etcd::DeleteOptions::new().with_prefix()))
            }
            Op::Read(prefix) => etcd::TxnOp::get(self.key(prefix), Some(etcd::GetOptions::new().with_prefix())),
            Op::Oldest(prefix, limit) => {
                let options = etcd::GetOptions::new()
                    .with_prefix()
                    .with_sort(etcd::SortTarget::Create, etcd::SortOrder::Ascend)
                    .with_limit(number(*limit as u64));
                etcd::TxnOp::get(self.key(prefix), Some(options))
            }
            Op::Count(prefix) => {
                etcd::TxnOp::get(self.key(prefix), Some(etcd::GetOptions::new().with_prefix().with_count_only()))
            }
        }
    }

    /// Converts the answer of etcd into the outcome of a transaction. If etcd did not execute the transaction because
    /// the fence has changed, the error is the new revision of the fence.
    pub(super) fn outcome(&self, response: &etcd::TxnResponse, fence: Option<i64>) -> Result<Outcome, i64> {
        let revision = response.header().map_or(0, |header| header.revision().unsigned_abs());
        let mut gets: Vec<etcd::GetResponse> = response
            .op_responses()
            .into_iter()
            .filter_map(|answer| match answer {
                etcd::TxnOpResponse::Get(get) => Some(get),
                _ => None,
            })
            .collect();
        if !response.succeeded()
            && let Some(expected) = fence
        {
            let shown = gets.pop().and_then(|get| get.kvs().first().map(etcd::KeyValue::mod_revision)).unwrap_or(0);
            if shown != expected {
                return Err(shown);
            }
        }
        let answers = gets
            .iter()
            .map(|get| Answer {
                rows: get.kvs().iter().map(|pair| self.row(pair)).collect(),
                count: get.count().unsigned_abs(),
            })
            .collect();
        Ok(if response.succeeded() {
            Outcome::Done { revision, answers }
        } else {
            Outcome::Refused { revision, answers }
        })
    }
}

/// Returns the first key that is greater than all keys with a prefix, in the order of bytes.
fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
