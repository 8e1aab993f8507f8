//! The parts of a pass, by number of files: loading, rendering, checking. Run with `cargo bench -p towpath-tests`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use divan::Bencher;
use serde_json::json;
use towpath_render::{
    objects::{ObjectSet, SourceTree, load},
    rendering::{Inputs, Rendered, Renderer},
    tree::{MemoryTree, Tree},
    view::NodeView,
};

const SIZES: [usize; 3] = [100, 1000, 10_000];

fn main() {
    divan::main();
}

/// A repository, and how it is asked: by the agent's own poll, and by git.
struct Asked {
    _folder: tempfile::TempDir,
    _server: Option<towpath_tests::git_servers::Https>,
    mirror: towpath_git::Mirror,
    ls_remote: Vec<String>,
}

fn asked(https: bool) -> Asked {
    let folder = tempfile::tempdir().unwrap();
    let repository = towpath_tests::git::Repository::new(folder.path(), "fleet");
    repository.write("a", "a");
    repository.publish("one");
    let server =
        https.then(|| towpath_tests::git_servers::Https::start_with(&folder.path().join("https"), folder.path(), ""));
    let ca = server.as_ref().map(|server| server.authority.certificate());
    let url = server.as_ref().map_or_else(|| repository.bare.display().to_string(), |server| server.url("fleet"));
    let options = towpath_git::Options {
        name: "fleet".into(),
        url: url.clone(),
        reference: towpath_git::Reference::Branch("main".into()),
        path: String::new(),
        auth: towpath_git::Auth { ca_file: ca.clone(), ..Default::default() },
        verify: Default::default(),
        allow_rewind: false,
        limits: Default::default(),
    };
    let ca = ca.map(|file| format!("http.sslCAInfo={}", file.display())).unwrap_or_else(|| "a.b=c".into());
    let mirror = towpath_git::Mirror::new(options, folder.path());
    mirror.fetch(None).unwrap();
    let ls_remote = ["-c".to_owned(), ca, "ls-remote".into(), url, "refs/heads/main".into()].to_vec();
    Asked { _folder: folder, _server: server, mirror, ls_remote }
}

#[divan::bench(args = [false, true])]
fn poll(bencher: Bencher, https: bool) {
    let asked = asked(https);
    bencher.bench(|| asked.mirror.poll().unwrap());
}

#[divan::bench(args = [false, true])]
fn git_ls_remote(bencher: Bencher, https: bool) {
    let asked = asked(https);
    bencher.bench(|| {
        towpath_tests::ok(std::process::Command::new("git").args(&asked.ls_remote).env_remove("GIT_SSL_CAINFO"))
    });
}

fn sources(files: usize, tasks: bool) -> Vec<SourceTree> {
    let fleet = "metadata: {apiVersion: v1alpha, kind: Namespace, name: app}\n---\nmetadata: {apiVersion: v1alpha, kind: Node, name: n1}\n";
    let head = "metadata: {apiVersion: v1alpha, kind: TaskBook, name: files, namespace: app}\nspec:\n  targets: {nodes: [n1]}\n  tasks:\n";
    let body: String = if tasks {
        (0..files)
            .map(|file| {
                format!(
                    "    - name: file {file}
      file: {{path: /f/{file}.conf, content: \"name = app{file}\\nhost = {{{{ node.name }}}}\\n\"}}
"
                )
            })
            .collect()
    } else {
        format!(
            "    - name: files\n      loop: \"{{{{ range({files}) | list }}}}\"\n      file: {{path: \"/f/{{{{ item }}}}.conf\", template: templates/app.j2}}\n"
        )
    };
    let template =
        "# managed file {{ item }}\nname = app{{ item }}\nport = {{ 10000 + item }}\nhost = {{ node.name }}\n";
    let tree: MemoryTree = [
        ("fleet.yaml", fleet.to_owned()),
        ("book.yaml", format!("{head}{body}")),
        ("templates/app.j2", template.to_owned()),
    ]
    .into_iter()
    .collect();
    let tree: Arc<dyn Tree> = Arc::new(tree);
    vec![SourceTree { name: "fleet".into(), tree, library: false, globals: true }]
}

fn loaded(files: usize, tasks: bool) -> ObjectSet {
    load(&sources(files, tasks), &BTreeMap::new()).set
}

#[divan::bench(args = SIZES)]
fn load_tasks(bencher: Bencher, files: usize) {
    let sources = sources(files, true);
    bencher.bench(|| load(&sources, &BTreeMap::new()));
}

fn render(set: &ObjectSet) -> usize {
    let view = NodeView::new(set, "n1");
    let inputs = Inputs {
        facts: json!({}),
        nodes: Arc::default(),
        computed: BTreeMap::new(),
        unknown: BTreeSet::new(),
        event: None,
    };
    let renderer = Renderer::new(set, &view, &view.books[0], &inputs).unwrap();
    let mut rendered = 0;
    for task in &view.books[0].tasks {
        let Rendered::Ready(items) = renderer.items(task).unwrap() else { panic!("the loop is known") };
        for item in items.map_or(vec![None], |items| items.into_iter().map(Some).collect()) {
            let Rendered::Ready(_) = renderer.params(task, item.as_ref()).unwrap() else { panic!("all is known") };
            rendered += 1;
        }
    }
    rendered
}

#[divan::bench(args = SIZES)]
fn render_a_loop_over_a_template(bencher: Bencher, files: usize) {
    let set = loaded(files, false);
    bencher.bench(|| render(&set));
}

#[divan::bench(args = SIZES)]
fn render_tasks(bencher: Bencher, files: usize) {
    let set = loaded(files, true);
    bencher.bench(|| render(&set));
}
