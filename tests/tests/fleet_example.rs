//! The example repos-example/fleet, run by 23 agents: three load balancers and twenty web servers.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, time::Duration};

use towpath_tests::{Running, etcd::Etcd, git::Repository, node::Node, ok, wait_until};

/// Returns the times at which servers went out of service or returned, in order.
fn service(nodes: &[Node]) -> Vec<(u64, bool, String)> {
    let mut all = Vec::new();
    for node in nodes {
        for line in node.read("/srv/shop/service").unwrap_or_default().lines() {
            let (time, word) = line.split_once(' ').unwrap();
            all.push((time.parse().unwrap(), word == "down", node.name.clone()));
        }
    }
    all.sort();
    all
}

/// Returns the maximum number of servers out of service at one time.
fn most_down(service: &[(u64, bool, String)]) -> usize {
    let mut down: BTreeSet<&str> = BTreeSet::new();
    let mut most = 0;
    for (_, is_down, node) in service {
        if *is_down {
            down.insert(node)
        } else {
            down.remove(node.as_str())
        };
        most = most.max(down.len());
    }
    assert!(down.is_empty(), "{down:?} did not come back");
    most
}

#[test]
fn example_fleet_rolls_out_a_new_version() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::single(folder.path(), "etcd");
    let repository = Repository::new(folder.path(), "fleet");
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../repos-example/fleet/.");
    ok(Command::new("cp").arg("-r").arg(example).arg(&repository.work));
    // The servers come first: a rollout waits only for nodes that joined before its commit.
    let shop = fs::read_to_string(repository.work.join("shop.yaml")).unwrap();
    repository.write("shop.yaml", "metadata: {apiVersion: v1alpha, kind: Namespace, name: shop}\n");
    let joined = repository.publish("servers");
    let names = (1..=3).map(|n| format!("lb{n}")).chain((1..=20).map(|n| format!("web{n}")));
    let source = format!("url: {}\n      interval: 2s", repository.bare.display());
    let settings = format!("{}  reconcile: {{interval: 20s}}\n", etcd.data_store());
    let nodes: Vec<Node> = names.map(|name| Node::named(folder.path(), &name, &source, &settings, None)).collect();
    let agents: Vec<Running> = nodes
        .iter()
        .map(|node| {
            let log = fs::File::create(node.folder.join("log")).unwrap();
            Running::start(&node.agent(), std::process::Stdio::null(), log)
        })
        .collect();
    let applied = |commit: &str| {
        let done = || nodes.iter().all(|node| node.applied(commit));
        let shown = || {
            let waits = nodes.iter().filter(|node| !node.applied(commit)).map(|node| {
                let log = node.log();
                let last: Vec<&str> = log.lines().rev().take(5).collect();
                format!(
                    "{}: {}\n{}\n",
                    node.name,
                    node.ask(&["status"]).unwrap_or_default()["conditions"],
                    last.join("\n")
                )
            });
            format!("{:#}\n{}", nodes[0].ask(&["rollouts"]).unwrap_or_default(), waits.collect::<String>())
        };
        wait_until(Duration::from_secs(240), done, shown);
    };
    applied(&joined);
    repository.write("shop.yaml", &shop);
    applied(&repository.publish("the shop"));
    let web = &nodes[3..];
    let first = service(web);
    assert!(most_down(&first) <= 5, "{first:?}");
    repository.write("shop.yaml", shop.replace("version: \"1.0\"", "version: \"2.0\""));
    applied(&repository.publish("version 2.0"));
    let second: Vec<_> = service(web).into_iter().skip(first.len()).collect();
    let most = most_down(&second);
    assert!((2..=5).contains(&most), "{most} were out of service at one time: {second:?}");
    let canary = &second[0].2;
    let alone = second.iter().take_while(|(_, down, node)| !*down || node == canary).count();
    assert!(alone >= 2, "the first wave is one server, until it is back: {second:?}");
    assert!(second[alone].0 - second[1].0 >= 1_000_000_000, "it soaks for a second: {second:?}");
    let schemas: BTreeSet<String> = web.iter().map(|node| node.read("/srv/shop/schema").unwrap()).collect();
    assert_eq!(schemas.len(), 1, "{schemas:?}");
    assert!(schemas.first().unwrap().starts_with("schema for 2.0, made by web"), "{schemas:?}");
    for node in &nodes[..3] {
        let list = node.read("/etc/lb/servers.cfg").unwrap();
        assert_eq!(list.lines().filter(|line| line.starts_with("server web")).count(), 20, "{list}");
        assert!(list.starts_with("# Shop 2.0"), "{list}");
    }
    drop(agents);
}
