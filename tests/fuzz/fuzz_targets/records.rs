//! Records of the store: any bytes below any key, and a good record with any change to it.
//!
//! The first byte chooses the key. Is the second one even, the rest is the record. Otherwise the next three bytes are
//! the place and the length of what the rest replaces in a good record.
#![no_main]

use std::sync::{Arc, OnceLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use libfuzzer_sys::fuzz_target;
use towpath_coordination::{
    Accepted, LocalStore, Store,
    signed::{Notary, SignedStore},
    store::{Op, Page, Txn},
};
use towpath_host::identity::{Bearer, Identity};

const KEYS: [&str; 4] = ["book/facts/a", "book/state/a", "book/queue/s/a", "board/open/a"];
const VALUE: &[u8] = br#"{"at":1,"os":"debian"}"#;

/// The key of a node, the same in each run.
fn identity(seed: u8) -> Identity {
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend_from_slice(&[seed; 32]);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der));
    Identity::from_pem(&pem, "key".as_ref()).unwrap()
}

fn node(store: &Arc<LocalStore>, name: &str, seed: u8, first: u64) -> (SignedStore, Arc<Notary>) {
    let bearer = Bearer::Bare(Arc::new(identity(seed)));
    let notary = Arc::new(Notary::new("c".into(), name.into(), bearer, first));
    (SignedStore::new(Arc::<LocalStore>::clone(store), Arc::clone(&notary)), notary)
}

fn put(store: &dyn Store, key: &str, value: &[u8]) {
    store.commit(&Txn { then: vec![Op::put(key, value.to_vec())], ..Txn::default() }).unwrap();
}

/// The record of node a below a key, as it stands in the store.
fn good(key: usize) -> &'static [u8] {
    static GOOD: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let all = GOOD.get_or_init(|| {
        let sign = |key: &&str| {
            let store = Arc::new(LocalStore::default());
            put(&node(&store, "a", 1, 7).0, key, VALUE);
            store.read(key, &Page::default()).unwrap().rows[0].value.clone()
        };
        KEYS.iter().map(sign).collect()
    });
    &all[key]
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, form, rest @ ..] = bytes else { return };
    let at = usize::from(*choice) % KEYS.len();
    let value = match (form % 2, rest) {
        (0, rest) => rest.to_vec(),
        (_, [high, low, length, rest @ ..]) => {
            let mut value = good(at).to_vec();
            let from = usize::from(u16::from_be_bytes([*high, *low])).min(value.len());
            let to = (from + usize::from(*length)).min(value.len());
            value.splice(from..to, rest.iter().copied());
            value
        }
        _ => return,
    };
    let _ = Accepted::told(&value, &value, "");
    let store = Arc::new(LocalStore::default());
    let (reader, notary) = node(&store, "b", 2, 1);
    notary.give([("a".to_owned(), Some(identity(1).keys())), ("b".to_owned(), None)].into());
    put(&*store, KEYS[at], &value);
    for row in reader.read("", &Page::default()).unwrap().rows {
        assert_eq!(row.value, VALUE, "a record counts that node a has not signed");
    }
});
