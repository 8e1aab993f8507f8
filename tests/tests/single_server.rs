//! The example repos-example/single-server on a real machine: set up, kept in sync, and removed.

use std::fs;

use towpath_tests::server::Server;

fn unchanged(server: &Server) -> bool {
    let tasks = server.tasks();
    tasks.len() >= 14 && tasks.iter().all(|(_, outcome, _)| outcome == "unchanged")
}

#[test]
fn web_server_is_set_up_from_packages_to_pages() {
    let server = Server::new();
    let head = server.publish_single_server();
    server.wait(|server| server.status()["lastApplied"]["commits"]["fleet"] == *head);
    server.wait(unchanged);
    let page = || {
        server.says(&["python3", "-c", "import socket; s = socket.create_connection(('127.0.0.1', 80), 5); s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"])
    };
    assert!(page().contains("This page came with a push."), "{}", page());
    assert_eq!(server.says(&["systemctl", "is-enabled", "nginx"]), "enabled");
    assert_eq!(server.says(&["systemctl", "show", "-P", "LimitNOFILE", "nginx"]), "65536");
    assert_eq!(server.says(&["cat", "/proc/sys/net/core/somaxconn"]), "8192");
    assert_eq!(server.says(&["stat", "-c", "%U", "/srv/pages/index.html"]), "pages");
    server.wait(|server| server.says(&["cat", "/srv/cache/pages"]) == "1");
    server.wait(|server| server.says(&["pgrep", "packagekitd"]).is_empty());

    // A killed service is started again, and an unmounted file system is mounted again.
    let before = server.says(&["systemctl", "show", "-P", "MainPID", "nginx"]);
    server.says(&["systemctl", "kill", "--signal=KILL", "nginx"]);
    server.says(&["umount", "/srv/cache"]);
    server.wait(|server| {
        let now = server.says(&["systemctl", "show", "-P", "MainPID", "nginx"]);
        now != before && now != "0" && server.says(&["findmnt", "-no", "FSTYPE", "/srv/cache"]) == "tmpfs"
    });
    server.wait(unchanged);
    assert_eq!(server.says(&["pgrep", "packagekitd"]), "", "who only looks has started PackageKit");
    assert!(page().contains("This page came with a push."));

    // A page restarts nothing. Another limit does, although the book has no notify.
    let since = || server.says(&["systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", "nginx"]);
    let begun = since();
    server.repository.write("site/index.html", "<p>Another page.</p>\n");
    let head = server.repository.publish("a page");
    server.wait_for(&head);
    assert!(page().contains("Another page."));
    assert_eq!(since(), begun, "a page has restarted the server");
    let book = fs::read_to_string(server.repository.work.join("server.yaml")).unwrap();
    server.repository.write("server.yaml", book.replace("LimitNOFILE=65536", "LimitNOFILE=32768"));
    let head = server.repository.publish("another limit");
    server.wait_for(&head);
    server.wait(|server| server.says(&["systemctl", "show", "-P", "LimitNOFILE", "nginx"]) == "32768");
    assert_ne!(since(), begun, "the server was not restarted");
    server.wait(unchanged);

    server.repository.write(
        "server.yaml",
        "metadata: {apiVersion: v1alpha, kind: TaskBook, name: server, namespace: web}
spec:
  targets: {nodes: [n0]}
  prune: true
  pruneBudget: 100%
  tasks: []
",
    );
    let head = server.repository.publish("nothing");
    server.wait_for(&head);
    server.wait(|server| server.says(&["dpkg-query", "-W", "-f", "${db:Status-Status}", "nginx"]) != "installed");
    server.wait(|server| server.tasks().iter().all(|(_, outcome, _)| outcome != "failed"));
    for gone in [
        "etc/apt/sources.list.d/web.sources",
        "etc/sysctl.d/60-towpath-net.core.somaxconn.conf",
        "etc/systemd/system/srv-cache.mount",
        "etc/systemd/system/nginx.service.d/limits.conf",
        "etc/systemd/system/count-pages.service",
        "etc/systemd/system/count-pages.timer",
        "etc/nginx/conf.d/pages.conf",
        "srv/pages/index.html",
    ] {
        assert!(!server.machines.root(0).join(gone).exists(), "{gone} is still there\n{}", server.shown());
    }
    assert_eq!(server.says(&["id", "pages"]), "");
    assert_eq!(server.says(&["findmnt", "-no", "FSTYPE", "/srv/cache"]), "");
    assert_eq!(server.says(&["cat", "/proc/sys/net/core/somaxconn"]), "4096");
}
