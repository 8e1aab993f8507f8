use std::{collections::BTreeMap, sync::Arc};

use towpath_host::identity::{Identity, SigningIdentity};

use super::*;
use crate::LocalStore;

fn node_with(
    store: &Arc<LocalStore>,
    name: &str,
    identity: Arc<Identity>,
    first: u64,
) -> (SignedStore, Arc<RecordSigner>) {
    let signer = Arc::new(RecordSigner::new("c".into(), name.into(), SigningIdentity::Bare(identity), first));
    (SignedStore::new(Arc::<LocalStore>::clone(store), Arc::clone(&signer)), signer)
}

fn node(store: &Arc<LocalStore>, name: &str) -> (SignedStore, Arc<RecordSigner>) {
    node_with(store, name, Arc::new(Identity::make().unwrap()), 1)
}

/// Returns the rights of a revision that has one book and no Node objects.
fn rights(book: &str, targets: &[&str]) -> Rights {
    let targets = targets.iter().map(|node| (*node).to_owned()).collect();
    let rights = BookRights { budgets: [book.to_owned()].into(), targets, ..BookRights::default() };
    Rights { books: BTreeMap::from([(book.to_owned(), rights)]), ..Rights::default() }
}

fn put(store: &dyn Store, key: &str, value: &str) {
    store.commit(&Txn { then: vec![Op::put(key, value.as_bytes().to_vec())], ..Txn::default() }).unwrap();
}

fn values(store: &dyn Store, prefix: &str) -> Vec<String> {
    let rows = store.read(prefix, &Page::default()).unwrap().rows;
    rows.into_iter().map(|row| String::from_utf8(row.value).unwrap()).collect()
}

fn raw(store: &LocalStore, key: &str) -> Vec<u8> {
    store.read(key, &Page::default()).unwrap().rows[0].value.clone()
}

fn put_back(store: &LocalStore, key: &str, value: Vec<u8>) {
    store.commit(&Txn { then: vec![Op::put(key, value)], ..Txn::default() }).unwrap();
}

#[test]
fn record_counts_only_as_its_writer_wrote_it() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, refused)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "fleet/facts/a", r#"{"os":"debian"}"#);
    assert_eq!(values(&b, "fleet/facts/"), [r#"{"os":"debian"}"#], "as it was written, without the signature");
    let original = raw(&store, "fleet/facts/a");

    put(&*store, "fleet/facts/c", r#"{"os":"forged"}"#);
    put(&a, "fleet/facts/d", r#"{"os":"not mine to write"}"#);
    assert_eq!(values(&b, "fleet/facts/").len(), 1);
    let why = refused.refused();
    assert!(why["fleet/facts/c"].contains("not signed"), "{why:?}");
    assert!(why["fleet/facts/d"].contains("only d"), "{why:?}");

    // The cases are the same bytes under another key, changed bytes, and a replayed older record.
    put_back(&store, "fleet/state/a", original.clone());
    assert_eq!(values(&b, "fleet/state/").len(), 0);
    put(&*store, "fleet/facts/a", &String::from_utf8(original.clone()).unwrap().replace("debian", "ubuntu"));
    assert_eq!(values(&b, "fleet/facts/").len(), 0);
    put(&a, "fleet/facts/a", r#"{"os":"new"}"#);
    assert_eq!(values(&b, "fleet/facts/"), [r#"{"os":"new"}"#]);
    put_back(&store, "fleet/facts/a", original);
    assert_eq!(values(&b, "fleet/facts/").len(), 0, "an old record that was put back does not count");
}

#[test]
fn record_that_is_put_back_does_not_count_after_a_restart_of_the_reader() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let ((a, _), (b, signer)) = (node(&store, "a"), node_with(&store, "b", Arc::clone(&identity), 1));
    put(&a, "fleet/state/a", r#"{"generation":1}"#);
    let old = raw(&store, "fleet/state/a");
    put(&a, "fleet/state/a", r#"{"generation":2}"#);
    assert_eq!(values(&b, "fleet/state/"), [r#"{"generation":2}"#]);
    let kept = signer.take_changed();
    assert!(values(&b, "fleet/state/").len() == 1 && signer.changed() == 0, "nothing new is nothing to keep");
    put_back(&store, "fleet/state/a", old);
    for (kept, counts) in [(kept, 0), (Vec::new(), 1)] {
        let (again, signer) = node_with(&store, "b", Arc::clone(&identity), 1);
        signer.resume(kept, BTreeMap::new());
        assert_eq!(values(&again, "fleet/state/").len(), counts, "a reader without a journal cannot know");
    }
}

#[test]
fn node_whose_disk_was_restored_continues_above_its_own_records() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let (b, _) = node(&store, "b");
    let (a, _) = node_with(&store, "a", Arc::clone(&identity), 1_000);
    put(&a, "fleet/joined/a", "{}");
    put(&a, "fleet/sequence/a", r#"{"number":7}"#);
    assert_eq!(values(&b, "fleet/sequence/"), [r#"{"number":7}"#]);
    // A forged record with a high number does not count, and does not raise the remembered number.
    let high = String::from_utf8(raw(&store, "fleet/sequence/a")).unwrap().replace("\"seq\":1001", "\"seq\":999999");
    put_back(&store, "fleet/state/a", high.into_bytes());
    let (restored, signer) = node_with(&store, "a", identity, 5);
    put(&restored, "fleet/sequence/a", r#"{"number":8}"#);
    assert_eq!(values(&b, "fleet/sequence/"), [r#"{"number":8}"#], "its records are not older than its former ones");
    assert_eq!(signer.next(), 1_003);
}

#[test]
fn record_of_another_agent_with_the_same_key_differs_from_an_older_one() {
    let store = Arc::new(LocalStore::default());
    let identity = Arc::new(Identity::make().unwrap());
    let row = |store: &LocalStore| store.read("inbox/a/agent", &Page::default()).unwrap().rows[0].clone();
    let (before, _) = node_with(&store, "a", Arc::clone(&identity), 10);
    put(&before, "inbox/a/agent", r#"{"id":"0"}"#);
    let old = row(&store);
    let (first, _) = node_with(&store, "a", Arc::clone(&identity), 10);
    put(&first, "inbox/a/agent", r#"{"id":"1"}"#);
    assert!(!first.is_of_namesake(&old), "its own record, from before it was started");
    let (clone, _) = node_with(&store, "a", identity, 10);
    put(&clone, "inbox/a/agent", r#"{"id":"2"}"#);
    let by_clone = row(&store);
    assert!(first.is_of_namesake(&by_clone));
    // The first agent writes its record again, and the clone detects it.
    put(&first, "inbox/a/agent", r#"{"id":"1"}"#);
    assert!(clone.is_of_namesake(&row(&store)));
    // A record that another key has signed does not prove that another agent uses this node's key.
    let (stranger, _) = node(&store, "a");
    put(&stranger, "inbox/a/agent", r#"{"id":"3"}"#);
    assert!(!first.is_of_namesake(&row(&store)));
}

#[test]
fn own_write_sequence_from_a_backup_is_read_by_the_node() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, _)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "fleet/sequence/a", r#"{"number":7}"#);
    let backup = raw(&store, "fleet/sequence/a");
    put(&a, "fleet/sequence/a", r#"{"number":9}"#);
    assert_eq!((values(&a, "fleet/sequence/").len(), values(&b, "fleet/sequence/").len()), (1, 1));
    put_back(&store, "fleet/sequence/a", backup);
    assert_eq!(values(&a, "fleet/sequence/"), [r#"{"number":7}"#]);
    assert_eq!(values(&b, "fleet/sequence/").len(), 0);
}

#[test]
fn many_records_that_do_not_count_are_passed_over() {
    let store = Arc::new(LocalStore::default());
    let (a, signer) = node(&store, "a");
    signer.set_rights(rights("n/z", &["a"]));
    for number in 0..20_000 {
        put(&*store, &format!("shared/progress/n/{number:05}"), "{}");
    }
    put(&a, "shared/progress/n/z", "{}");
    let first = a.read("shared/", &Page { after: None, limit: 1 }).unwrap();
    assert_eq!(first.rows.len(), 1, "the one that counts is found after all others");
}

#[test]
fn deleted_void_record_does_not_block_a_claim() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    let key = "fleet/held/n/b/-/n/b/x";
    put(&*store, key, r#"{"kind":"offer"}"#);
    assert_eq!(values(&a, "fleet/held/").len(), 0);
    store.commit(&Txn { then: vec![Op::Delete(key.into())], ..Txn::default() }).unwrap();
    let txn = Txn {
        compare: vec![Compare::Absent(key.into())],
        then: vec![Op::put(key, br#"{"kind":"claim"}"#.to_vec())],
        ..Txn::default()
    };
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })));
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })), "looked at again");
}

#[test]
fn void_record_can_be_written_over() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    put(&*store, "shared/accepted", r#"{"generation":9}"#);
    let txn = Txn {
        compare: vec![Compare::Absent("shared/accepted".into())],
        then: vec![Op::put("shared/accepted", br#"{"generation":1}"#.to_vec())],
        ..Txn::default()
    };
    assert_eq!(values(&a, "shared/accepted").len(), 0);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })));
    assert_eq!(values(&a, "shared/accepted"), [r#"{"generation":1}"#]);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })), "what counts is there");
}

#[test]
fn key_of_no_kind_is_not_written() {
    let store = Arc::new(LocalStore::default());
    let (a, _) = node(&store, "a");
    let txn = Txn { then: vec![Op::put("fleet/other/x", b"{}".to_vec())], ..Txn::default() };
    assert!(matches!(a.commit(&txn), Err(StoreError::Denied(_))));
    put(&*store, "fleet/other/x", "{}");
    assert_eq!(values(&a, "fleet/other/").len(), 0);
}

#[test]
fn node_is_known_by_its_first_key_until_git_names_another() {
    let store = Arc::new(LocalStore::default());
    let ((a, known), (other, another)) = (node(&store, "a"), node(&store, "a"));
    let (b, signer) = node(&store, "b");
    put(&a, "fleet/joined/a", "{}");
    // The reader sees the record of the impostor first, but the join record decides which key counts.
    put(&other, "fleet/facts/a", r#"{"v":2}"#);
    assert_eq!(values(&b, "fleet/facts/").len(), 0, "another machine of that name");
    put(&a, "fleet/facts/a", r#"{"v":1}"#);
    assert_eq!(values(&b, "fleet/facts/").len(), 1);
    let named = |keys| Rights { nodes: BTreeMap::from([("a".to_owned(), Some(keys))]), ..Rights::default() };
    signer.set_rights(named(known.keys()));
    assert_eq!(values(&b, "fleet/facts/").len(), 1);
    signer.set_rights(named(another.keys()));
    assert_eq!(values(&b, "fleet/facts/").len(), 0, "the key before does not count, though its records did");
    put(&other, "fleet/facts/a", r#"{"v":2}"#);
    assert_eq!(values(&b, "fleet/facts/").len(), 1, "its numbers restart");
}

#[test]
fn slot_of_a_node_whose_key_was_replaced_stays_taken() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (_, another), (b, signer)) = (node(&store, "a"), node(&store, "a"), node(&store, "b"));
    signer.set_rights(rights("n/b", &["a", "b"]));
    put(&a, "fleet/held/n/b/-/n/b/a", r#"{"kind":"claim"}"#);
    put(&a, "fleet/queue/n/b/-/n/b/a", "{}");
    assert_eq!(values(&b, "fleet/held/").len(), 1);
    let named = [("a".to_owned(), Some(another.keys())), ("b".to_owned(), None)];
    signer.set_rights(Rights { nodes: named.into(), ..rights("n/b", &["a", "b"]) });
    assert_eq!(values(&b, "fleet/held/"), [r#"{"kind":"claim"}"#], "it may be half changed");
    assert_eq!(values(&b, "fleet/queue/").len(), 0);
}

#[test]
fn revoked_key_counts_no_more_also_for_records_that_were_read() {
    let store = Arc::new(LocalStore::default());
    let ((a, known), (b, signer)) = (node(&store, "a"), node(&store, "b"));
    signer.set_rights(rights("n/b", &["a", "b"]));
    put(&a, "fleet/facts/a", "{}");
    put(&a, "fleet/held/n/b/-/n/b/a", r#"{"kind":"claim"}"#);
    assert_eq!(values(&b, "fleet/").len(), 2);
    signer.revoked().set([known.keys().texts()[0].clone()]);
    assert_eq!(values(&b, "fleet/").len(), 0);
    signer.revoked().set([]);
    assert_eq!(values(&b, "fleet/").len(), 2);
}

#[test]
fn node_that_git_does_not_name_is_refused_where_git_names_nodes() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (b, signer)) = (node(&store, "a"), node(&store, "b"));
    put(&a, "fleet/facts/a", "{}");
    assert_eq!(values(&b, "fleet/facts/").len(), 1);
    signer.set_rights(Rights { nodes: BTreeMap::from([("b".to_owned(), None)]), ..Rights::default() });
    assert_eq!(values(&b, "fleet/facts/").len(), 0);
}

#[test]
fn stranger_is_named_with_its_keys_until_the_node_is_back() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (other, another), (b, _)) = (node(&store, "a"), node(&store, "a"), node(&store, "b"));
    put(&a, "fleet/joined/a", "{}");
    put(&a, "fleet/alive/a", "{}");
    assert_eq!(values(&b, "fleet/alive/").len(), 1);
    let keys = another.keys().texts();
    put(&other, "fleet/alive/a", &serde_json::json!({ "publicKeys": keys }).to_string());
    assert_eq!(values(&b, "fleet/alive/").len(), 0);
    assert_eq!(b.strangers(), BTreeMap::from([("a".to_owned(), keys.to_vec())]));
    put(&a, "fleet/alive/a", "{}");
    assert_eq!(values(&b, "fleet/alive/").len(), 1);
    assert!(b.strangers().is_empty());
}

#[test]
fn void_report_of_a_restore_pauses_nothing() {
    let store = Arc::new(LocalStore::default());
    let ((a, _), (z, _)) = (node(&store, "a"), node(&store, "z"));
    put(&z, "shared/recovery/a", r#"{"id":"x"}"#);
    assert_eq!(values(&a, keys::ALL_RECOVERIES).len(), 0);
    let txn = Txn {
        compare: vec![Compare::NoneNewer(keys::ALL_RECOVERIES.into(), 0)],
        then: vec![Op::put("fleet/facts/a", b"{}".to_vec())],
        ..Txn::default()
    };
    assert!(matches!(a.commit(&txn), Ok(Outcome::Done { .. })), "the record that does not count is cleared away");
    put(&z, "shared/recovery/z", r#"{"id":"x"}"#);
    assert!(matches!(a.commit(&txn), Ok(Outcome::Refused { .. })), "one that counts is not");
}
