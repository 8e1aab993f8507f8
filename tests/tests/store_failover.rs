//! The etcd store while members fail: dead, stopped, silent, with a wrong certificate, without the node's token.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedReceiver;
use towpath_coordination::store::{
    Change, Compare, Op, Outcome, Page, Store, StoreError, Txn,
    etcd::{Access, EtcdOptions, EtcdStore},
};
use towpath_tests::{
    etcd::{Etcd, programs},
    ok,
    proxy::Proxy,
    towpath, wait_until,
};

/// The time limit of a request while one member is silent: 3 s, and a margin for a busy machine.
const ONE_SILENT_MEMBER: Duration = Duration::from_secs(6);

fn options(node: &str, endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions { node: node.into(), endpoints, prefix: "/towpath/test/".into(), ..EtcdOptions::default() }
}

fn store(node: &str, endpoints: Vec<String>) -> EtcdStore {
    EtcdStore::new(options(node, endpoints)).unwrap()
}

fn put(key: &str, value: &str) -> Txn {
    Txn { then: vec![Op::put(key, value.into())], ..Txn::default() }
}

fn value(store: &dyn Store, key: &str) -> Option<String> {
    let rows = store.read(key, &Page::default()).unwrap().rows;
    rows.into_iter().find(|row| row.key == key).map(|row| String::from_utf8(row.value).unwrap())
}

/// Returns the keys that a watch receives up to and including `last`, in order.
fn until(watch: &mut UnboundedReceiver<Change>, last: &str, timeout: Duration) -> Vec<String> {
    let mut seen = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < timeout {
        match watch.try_recv() {
            Ok(Change::Put(row)) => seen.push(row.key),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
        if seen.last().is_some_and(|key| key == last) {
            return seen;
        }
    }
    panic!("the watch does not give {last} within {timeout:?}: {seen:?}");
}

/// Returns six nodes, so that each member is probably the first choice of one.
fn nodes(endpoints: &[String]) -> Vec<(String, EtcdStore)> {
    let names = (0..6).map(|number| format!("n{number}"));
    names.map(|name| (name.clone(), store(&name, endpoints.to_vec()))).collect()
}

/// Lets every node write and read a row and take a lease, all at once. Returns the longest time.
fn all_answer(nodes: &[(String, EtcdStore)], round: &str) -> Duration {
    std::thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .iter()
            .map(|(name, store)| {
                scope.spawn(move || {
                    let begin = Instant::now();
                    let key = format!("{round}/{name}");
                    let done = store.commit(&put(&key, "x")).unwrap_or_else(|error| panic!("{round} {name}: {error}"));
                    assert!(matches!(done, Outcome::Done { .. }));
                    assert_eq!(value(store, &key).as_deref(), Some("x"));
                    store.lease(Duration::from_secs(30)).unwrap();
                    begin.elapsed()
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).max().unwrap()
    })
}

#[test]
fn requests_and_watches_move_from_a_dead_a_stopped_and_a_silent_member() {
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::three_behind_proxies(folder.path());
    let mut nodes = nodes(&etcd.shown_endpoints());
    all_answer(&nodes, "undisturbed");
    // The ports decide which member a node uses first. Nodes are added until each member is the first choice of one.
    while etcd.proxies().iter().any(|proxy| proxy.connections() == 0) {
        assert!(nodes.len() < 60, "not every member is the first choice of a node");
        let name = format!("n{}", nodes.len());
        nodes.push((name.clone(), store(&name, etcd.shown_endpoints())));
        all_answer(&nodes, "undisturbed");
    }
    let mut watches: Vec<_> = nodes
        .iter()
        .map(|(_, store)| store.watch("mark/", store.read("mark/", &Page::default()).unwrap().revision + 1).unwrap())
        .collect();
    let mut marks = |mark: &str| {
        let key = format!("mark/{mark}");
        nodes[0].1.commit(&put(&key, "x")).unwrap();
        for watch in &mut watches {
            assert_eq!(
                until(watch, &key, Duration::from_secs(10)),
                std::slice::from_ref(&key),
                "each change once, in order"
            );
        }
    };
    marks("0");
    etcd.kill(0);
    let took = all_answer(&nodes, "dead");
    assert!(took < ONE_SILENT_MEMBER, "a dead member costs {took:?}");
    marks("1");
    etcd.begin(0);
    etcd.healthy();
    std::thread::sleep(Duration::from_secs(1));
    etcd.pause_member(1, true);
    let took = all_answer(&nodes, "stopped");
    assert!(took < 2 * ONE_SILENT_MEMBER, "a stopped member costs {took:?}");
    marks("2");
    etcd.pause_member(1, false);
    etcd.healthy();
    etcd.proxies()[2].hold(true, true);
    let took = all_answer(&nodes, "silent");
    assert!(took < ONE_SILENT_MEMBER, "a silent member costs {took:?}");
    marks("3");
}

/// A store that only watches has no request that could reveal the silence.
#[test]
fn watch_without_requests_moves_from_a_silent_member() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let direct = etcd.endpoints().remove(0);
    let proxy = Proxy::to(direct.trim_start_matches("http://"));
    let watcher = beginning_with(&proxy, &direct);
    let from = watcher.read("w/", &Page::default()).unwrap().revision + 1;
    let mut watch = watcher.watch("w/", from).unwrap();
    let writer = store("writer", vec![direct]);
    writer.commit(&put("w/1", "")).unwrap();
    assert_eq!(until(&mut watch, "w/1", Duration::from_secs(5)), ["w/1"]);
    proxy.hold(true, true);
    writer.commit(&put("w/2", "")).unwrap();
    writer.commit(&put("w/3", "")).unwrap();
    assert_eq!(until(&mut watch, "w/3", Duration::from_secs(12)), ["w/2", "w/3"]);
}

/// Returns a store with two endpoints that uses the proxy first: the proxy, and the etcd that it forwards to.
fn beginning_with(proxy: &Proxy, direct: &str) -> EtcdStore {
    for number in 0..64 {
        let before = proxy.connections();
        let store = store(&format!("node-{number}"), vec![proxy.url(), direct.to_owned()]);
        store.commit(&put("begun", "")).unwrap();
        if proxy.connections() > before {
            return store;
        }
    }
    panic!("no node begins with the proxy");
}

#[test]
fn commit_whose_answer_is_lost_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let direct = etcd.endpoints().remove(0);
    let proxy = Proxy::to(direct.trim_start_matches("http://"));
    let store = beginning_with(&proxy, &direct);
    proxy.hold(false, true);
    let swap = Txn {
        compare: vec![Compare::Absent("once".into())],
        then: vec![Op::put("once", "mine".into()), Op::Read("once".into())],
        otherwise: vec![Op::Read("once".into())],
    };
    match store.commit(&swap).unwrap() {
        Outcome::Done { answers, .. } => assert_eq!(answers[0].rows[0].value, b"mine"),
        Outcome::Refused { .. } => panic!("the node does not recognise what it wrote"),
    }
    // The opposite case: the commit was not executed, and another one was first.
    proxy.hold(false, false);
    let other = self::store("other", vec![direct.clone()]);
    let slow = beginning_with(&proxy, &direct);
    proxy.hold(true, true);
    std::thread::scope(|scope| {
        let swap = Txn {
            compare: vec![Compare::Absent("race".into())],
            then: vec![Op::put("race", "slow".into())],
            otherwise: vec![Op::Read("race".into())],
        };
        let slow = scope.spawn(move || slow.commit(&swap).unwrap());
        std::thread::sleep(Duration::from_secs(1));
        other.commit(&put("race", "fast")).unwrap();
        let Outcome::Refused { answers, .. } = slow.join().unwrap() else { panic!("both won") };
        assert_eq!(answers[0].rows[0].value, b"fast");
    });
}

/// A stopped member still holds a commit. It resumes long after the node has moved to another member.
#[test]
fn commit_that_arrives_late_is_void() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let direct = etcd.endpoints().remove(0);
    let proxy = Proxy::to(direct.trim_start_matches("http://"));
    let store = beginning_with(&proxy, &direct);
    let reader = self::store("reader", vec![direct]);
    let from = reader.read("late", &Page::default()).unwrap().revision + 1;
    let mut watch = reader.watch("late", from).unwrap();
    proxy.hold(true, true);
    store.commit(&put("late", "first")).unwrap();
    store.commit(&put("late", "second")).unwrap();
    store.commit(&put("late/end", "")).unwrap();
    proxy.hold(false, false);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(value(&reader, "late").as_deref(), Some("second"), "the first commit came back");
    assert_eq!(until(&mut watch, "late/end", Duration::from_secs(5)), ["late", "late", "late/end"]);
}

#[test]
fn one_wrong_endpoint_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let direct = etcd.endpoints().remove(0);
    let target = direct.trim_start_matches("http://").to_owned();
    let v6 = Proxy::at("[::1]:0".parse().unwrap(), &target);
    let silent = Proxy::to(&target);
    silent.hold(true, true);
    for wrong in [
        "http://etcd-gone.invalid:2379".to_owned(),
        "http://127.0.0.1:1".to_owned(),
        "http://[::1]:1".to_owned(),
        "https://127.0.0.1:1".to_owned(),
        direct.replace("http:", "https:"),
        silent.url(),
    ] {
        for node in ["a", "b", "c", "d"] {
            let store = store(node, vec![wrong.clone(), v6.url()]);
            let begin = Instant::now();
            store.commit(&put("k", "v")).unwrap_or_else(|error| panic!("{wrong}: {error}"));
            assert!(begin.elapsed() < ONE_SILENT_MEMBER, "{wrong} costs {:?}", begin.elapsed());
        }
        let none = store("a", vec![wrong.clone()]).read("k", &Page::default()).unwrap_err();
        assert!(none.to_string().contains(wrong.trim_end_matches('/')), "the member is named: {none}");
    }
    assert!(v6.connections() > 0);
}

/// Creates a store that authenticates with the password of the user.
fn with_user(etcd: &Etcd, password: &Arc<Mutex<String>>) -> EtcdStore {
    let password = Arc::clone(password);
    let read = move || {
        let user = Some(("nodes".to_owned(), password.lock().unwrap().clone()));
        Ok(Access { user, ..Access::default() })
    };
    EtcdStore::new(EtcdOptions { access: Arc::new(read), ..options("n", etcd.endpoints()) }).unwrap()
}

fn enable_users(etcd: &Etcd) {
    for words in [
        "role add nodes",
        "role grant-permission nodes readwrite /towpath/test/ --prefix",
        "user add root:root",
        "user grant-role root root",
        "user add nodes:one",
        "user grant-role nodes nodes",
        "auth enable",
    ] {
        ok(etcd.ctl().args(words.split(' ')));
    }
}

#[test]
fn tokens_that_no_longer_count_are_replaced_also_for_watches() {
    for program in programs() {
        let folder = tempfile::tempdir().unwrap();
        let mut etcd = Etcd::start(folder.path(), &program, 1, false, &["--auth-token-ttl", "2"]);
        enable_users(&etcd);
        let password = Arc::new(Mutex::new("one".to_owned()));
        let store = with_user(&etcd, &password);
        let from = store.read("w/", &Page::default()).unwrap().revision + 1;
        let mut watch = store.watch("w/", from).unwrap();
        store.commit(&put("w/1", "")).unwrap();
        assert_eq!(until(&mut watch, "w/1", Duration::from_secs(5)), ["w/1"]);
        // The tokens are in the memory of the member.
        etcd.kill(0);
        etcd.begin(0);
        wait_until(Duration::from_secs(15), || store.commit(&put("w/2", "")).is_ok(), || "no commit".into());
        assert_eq!(until(&mut watch, "w/2", Duration::from_secs(10)), ["w/2"], "{program}: deaf after the restart");
        // An expired token.
        std::thread::sleep(Duration::from_secs(5));
        store.commit(&put("w/3", "")).unwrap();
        assert_eq!(until(&mut watch, "w/3", Duration::from_secs(5)), ["w/3"]);
        let mut late = store.watch("w/", from).unwrap();
        assert_eq!(until(&mut late, "w/3", Duration::from_secs(5)), ["w/1", "w/2", "w/3"]);
        // A rotated password, which the node gets a little later.
        let mut passwd = etcd.ctl();
        passwd.args(["--user", "root:root", "user", "passwd", "nodes", "--interactive=false"]);
        ok(std::process::Command::new("sh")
            .args(["-c", "echo two | \"$@\"", "-"])
            .arg(passwd.get_program())
            .args(passwd.get_args())
            .env("ETCDCTL_API", "3"));
        let refused = store.commit(&put("w/4", "")).unwrap_err();
        assert!(matches!(&refused, StoreError::Denied(why) if why.contains("password")), "{refused}");
        *password.lock().unwrap() = "two".into();
        wait_until(Duration::from_secs(10), || store.commit(&put("w/4", "")).is_ok(), || "no commit".into());
        assert_eq!(until(&mut watch, "w/4", Duration::from_secs(10)), ["w/4"], "{program}");
        let elsewhere = store.read("/", &Page::default());
        assert!(elsewhere.is_ok(), "{elsewhere:?}");
        let beside = EtcdOptions { prefix: "/towpath/other/".into(), ..options("n", etcd.endpoints()) };
        let access = Arc::new(|| Ok(Access { user: Some(("nodes".into(), "two".into())), ..Access::default() }));
        let beside = EtcdStore::new(EtcdOptions { access, ..beside }).unwrap();
        for refused in [beside.commit(&put("k", "")).unwrap_err(), beside.watch("k", 1).unwrap_err()] {
            assert!(matches!(&refused, StoreError::Denied(why) if why.contains("permission denied")), "{refused}");
        }
    }
}

/// Each message names the member and the remedy.
#[test]
fn refused_certificates_are_distinguished() {
    for program in programs() {
        let folder = tempfile::tempdir().unwrap();
        let etcd = Etcd::start(folder.path(), &program, 1, true, &[]);
        let foreign = towpath_tests::git_servers::Authority::new(&folder.path().join("foreign"));
        let own = towpath_tests::git_servers::Authority::of(&folder.path().join("etcd/pki"));
        let client = "extendedKeyUsage=clientAuth\n";
        let read = |file: &Path| std::fs::read(file).unwrap();
        let pair = |(certificate, key): (std::path::PathBuf, std::path::PathBuf)| (read(&certificate), read(&key));
        let ca = read(&etcd.ca().unwrap());
        let good = pair(etcd.client("root").unwrap());
        let mixed = (good.0.clone(), pair(etcd.client("other").unwrap()).1);
        for (name, ca, identity, word) in [
            ("no certificate", &ca, None, "shows none"),
            ("foreign certificate", &ca, Some(pair(foreign.issue_for("x", client))), "authority that etcd trusts"),
            ("expired certificate", &ca, Some(pair(own.issue_days("y", client, "-1"))), "has expired; renew certFile"),
            ("wrong key", &ca, Some(mixed), "does not belong to certFile"),
            ("wrong caFile", &read(&foreign.certificate()), Some(good.clone()), "another authority than caFile"),
        ] {
            let valid_until = identity.as_ref().and_then(|(pem, _)| towpath_host::identity::valid_until(pem));
            let access = Access { ca: Some(ca.clone()), identity, valid_until, user: None };
            let access: towpath_coordination::store::etcd::ReadAccess = Arc::new(move || Ok(access.clone()));
            let store = EtcdStore::new(EtcdOptions { access, ..options("n", etcd.endpoints()) }).unwrap();
            let refused = store.read("k", &Page::default()).unwrap_err();
            let StoreError::Denied(why) = &refused else { panic!("{program}, {name}: {refused}") };
            assert!(why.contains(&etcd.endpoints()[0]) && why.contains(word), "{program}, {name}: {why}");
        }
    }
}

#[test]
fn renewed_client_certificate_counts_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::start(folder.path(), "etcd", 1, true, &[]);
    let own = towpath_tests::git_servers::Authority::of(&folder.path().join("etcd/pki"));
    let read = |(certificate, key): (std::path::PathBuf, std::path::PathBuf)| {
        (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap())
    };
    let expired = read(own.issue_days("late", "extendedKeyUsage=clientAuth\n", "-1"));
    let good = read(etcd.client("root").unwrap());
    let ca = std::fs::read(etcd.ca().unwrap()).unwrap();
    let shown = Arc::new(Mutex::new(expired.clone()));
    let identity = Arc::clone(&shown);
    let access: towpath_coordination::store::etcd::ReadAccess = Arc::new(move || {
        let identity = Some(identity.lock().unwrap().clone());
        Ok(Access { ca: Some(ca.clone()), identity, valid_until: None, user: None })
    });
    let store = EtcdStore::new(EtcdOptions { access, ..options("n", etcd.endpoints()) }).unwrap();
    let is_denied = || matches!(store.read("k", &Page::default()), Err(StoreError::Denied(_)));
    assert!(is_denied());
    *shown.lock().unwrap() = good;
    wait_until(Duration::from_secs(20), || store.commit(&put("k", "1")).is_ok(), || "still refused".into());
    let mut watch = store.watch("k", 0).unwrap();
    // The next connection reads the files again.
    *shown.lock().unwrap() = expired;
    etcd.kill(0);
    etcd.begin(0);
    wait_until(Duration::from_secs(20), is_denied, || "an expired certificate still counts".into());
    *shown.lock().unwrap() = read(etcd.client("root").unwrap());
    wait_until(Duration::from_secs(20), || store.commit(&put("k/last", "2")).is_ok(), || "refused for ever".into());
    until(&mut watch, "k/last", Duration::from_secs(20));
}

#[test]
fn member_whose_certificate_expired_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = Etcd::three(folder.path());
    etcd.expire(1);
    etcd.kill(1);
    etcd.begin(1);
    let (certificate, key) = etcd.client("root").unwrap();
    let access = Access {
        ca: Some(std::fs::read(etcd.ca().unwrap()).unwrap()),
        identity: Some((std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap())),
        ..Access::default()
    };
    let access: towpath_coordination::store::etcd::ReadAccess = Arc::new(move || Ok(access.clone()));
    let open = |node: &str, endpoints| {
        EtcdStore::new(EtcdOptions { access: Arc::clone(&access), ..options(node, endpoints) }).unwrap()
    };
    let nodes: Vec<_> =
        (0..6).map(|number| format!("n{number}")).map(|name| (name.clone(), open(&name, etcd.endpoints()))).collect();
    all_answer(&nodes, "expired");
    let alone = open("n", vec![etcd.endpoints()[1].clone()]);
    let refused = wait_for_refusal(&alone);
    assert!(refused.contains("the certificate of the member has expired"), "{refused}");
}

/// Waits until the store is denied, and returns the reason.
fn wait_for_refusal(store: &EtcdStore) -> String {
    let said = std::cell::RefCell::new(String::new());
    let refused = || match store.read("k", &Page::default()) {
        Err(StoreError::Denied(why)) => {
            *said.borrow_mut() = why;
            true
        }
        other => {
            *said.borrow_mut() = format!("{other:?}");
            false
        }
    };
    wait_until(Duration::from_secs(15), refused, || said.borrow().clone());
    said.into_inner()
}

#[test]
fn malformed_endpoint_ends_the_agent_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.yaml");
    let mut statuses = BTreeSet::new();
    for endpoint in ["127.0.0.1:2379", "https://etcd1:0", "https://", "htps://etcd1:2379", "http://::1:2379"] {
        let text = format!(
            "metadata: {{apiVersion: v1alpha, kind: Config, name: n}}
spec:
  node: n
  stateDir: {0}/state
  root: {0}
  listen: {{socket: {0}/api.sock}}
  sources: [{{name: fleet, url: \"file://{0}/none\"}}]
  dataStore: {{type: etcd, endpoints: [\"http://127.0.0.1:1\", \"{endpoint}\"]}}
",
            folder.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let output = towpath().args(["agent", "--once", "--config"]).arg(&config).output().unwrap();
        statuses.insert(output.status.code());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains(endpoint) && said.contains("agent.yaml:"),
            "the endpoint and its place are named: {said}"
        );
    }
    assert_eq!(statuses, BTreeSet::from([Some(2)]));
}
