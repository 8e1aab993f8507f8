//! Measures what checks cost on a real machine. Run by hand, with TOWPATH_BIN a release build:
//! cargo run -p towpath-tests --bin machine

use towpath_tests::{ok, server::Server};

/// Returns the time that the tasks of the book took, in milliseconds.
fn took(server: &Server) -> f64 {
    let status = server.status();
    let tasks = status["taskBooks"][0]["tasks"].as_array().cloned().unwrap_or_default();
    tasks.iter().filter_map(|task| task["took"].as_f64()).sum::<f64>() * 1000.0
}

fn unchanged(server: &Server, tasks: usize) -> bool {
    let found = server.tasks();
    found.len() >= tasks && found.iter().all(|(_, outcome, _)| outcome == "unchanged")
}

/// The time of processor that the agent has had, in ticks of 10 ms.
fn ticks(server: &Server) -> u64 {
    let process = server.says(&["systemctl", "show", "-P", "MainPID", "towpath"]);
    let stat = server.says(&["cat", &format!("/proc/{process}/stat")]);
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    fields.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
}

/// Restarts the agent, without a limit on the number of restarts.
fn restart(server: &Server) {
    for verb in ["reset-failed", "restart"] {
        ok(&mut server.machines.command(0, &["systemctl", verb, "towpath"]));
    }
}

/// Restarts the agent five times. Returns the durations of the first passes, without a steady state.
fn first_passes(server: &Server, tasks: usize) -> Vec<f64> {
    (0..5)
        .map(|_| {
            restart(server);
            server.wait(|server| unchanged(server, tasks));
            took(server)
        })
        .collect()
}

fn main() {
    let server = Server::new();
    let listed = server.says(&["dpkg-query", "-W", "-f", "${Package}\n"]);
    let packages: Vec<&str> = listed.lines().take(100).collect();
    let tasks: String =
        packages.iter().map(|name| format!("    - name: {name}\n      package: {{name: {name}}}\n")).collect();
    server.publish(&format!("  tasks:\n{tasks}"));
    server.wait(|server| unchanged(server, 100));
    println!("100 checks of installed packages: {:.1?} ms", first_passes(&server, 100));
    println!("PackageKit runs: {:?}", server.says(&["pgrep", "packagekitd"]));

    server.publish_single_server();
    let tasks = 14;
    server.wait(|server| server.status()["taskBooks"][0]["name"] == "server" && unchanged(server, tasks));
    println!("single-server, {tasks} tasks, the checks of an unchanged pass: {:.1?} ms", first_passes(&server, tasks));
    let config = server.machines.root(0).join("etc/towpath/agent.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("interval: 5s", "interval: 200ms")).unwrap();
    restart(&server);
    server.wait(|server| unchanged(server, tasks));
    let before = ticks(&server);
    std::thread::sleep(std::time::Duration::from_secs(20));
    println!("at an interval of 200 ms: {} ms of processor time in 20 s", (ticks(&server) - before) * 10);
}
