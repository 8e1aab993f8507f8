//! State repositories made with the real git.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{Running, ok, output, wait_until};

/// git, with nothing of the user's own settings.
pub fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env_remove("GIT_SSL_CAINFO")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "protocol.file.allow=always"]);
    git
}

/// A bare repository and a working copy of it.
#[derive(Debug)]
pub struct Repository {
    /// The bare repository, which servers serve.
    pub bare: PathBuf,
    /// The working copy.
    pub work: PathBuf,
}

impl Repository {
    /// Makes a repository below a folder.
    pub fn new(folder: &Path, name: &str) -> Self {
        let bare = folder.join(format!("{name}.git"));
        let work = folder.join(format!("{name}-work"));
        fs::create_dir_all(folder).unwrap();
        ok(git(folder).args(["init", "-q", "--bare", "-b", "main"]).arg(&bare));
        ok(git(&bare).args(["config", "http.receivepack", "true"]));
        ok(git(&bare).args(["config", "uploadpack.allowAnySHA1InWant", "true"]));
        ok(git(folder).args(["init", "-q", "-b", "main"]).arg(&work));
        ok(git(&work).args(["remote", "add", "origin"]).arg(&bare));
        Self { bare, work }
    }

    /// Writes a file of the working copy.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let file = self.work.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Commits everything, and gives the commit.
    pub fn commit(&self, message: &str) -> String {
        self.commit_with(message, &[])
    }

    /// Commits everything with further arguments, such as those for signing.
    pub fn commit_with(&self, message: &str, settings: &[&str]) -> String {
        ok(git(&self.work).args(["add", "-A"]));
        let mut command = git(&self.work);
        command.args(settings).args(["commit", "-q", "--allow-empty", "-m", message]);
        ok(&mut command);
        self.head()
    }

    /// The commit that the working copy is at.
    pub fn head(&self) -> String {
        String::from_utf8(ok(git(&self.work).args(["rev-parse", "HEAD"])).stdout).unwrap().trim().to_owned()
    }

    /// Writes an object of any content to the bare repository, and gives its id.
    pub fn object(&self, kind: &str, data: &[u8]) -> String {
        let mut command = git(&self.bare);
        command.args(["hash-object", "-t", kind, "-w", "--stdin", "--literally"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(data).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs any git command in the bare repository.
    pub fn server(&self, arguments: &[&str]) -> String {
        let ran = output(git(&self.bare).args(arguments));
        assert!(ran.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }

    /// Pushes to the bare repository.
    pub fn push(&self) {
        ok(git(&self.work).args(["push", "-q", "origin", "HEAD:main"]));
    }

    /// Commits and pushes.
    pub fn publish(&self, message: &str) -> String {
        let commit = self.commit(message);
        self.push();
        commit
    }

    /// Runs any git command in the working copy.
    pub fn git(&self, arguments: &[&str]) -> String {
        let ran = output(git(&self.work).args(arguments));
        assert!(ran.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    }
}

/// The objects that every state repository of the tests begins with.
pub const FLEET: &str = "metadata: {apiVersion: v1alpha, kind: Namespace, name: app}
---
metadata: {apiVersion: v1alpha, kind: Node, name: n1, labels: {role: web}}
---
metadata: {apiVersion: v1alpha, kind: NodeGroup, name: web}
spec: {selector: \"role=web\"}
";

/// A TaskBook for the node of the tests.
pub fn book(name: &str, rest: &str) -> String {
    format!(
        "metadata: {{apiVersion: v1alpha, kind: TaskBook, name: {name}, namespace: app}}\nspec:\n  targets: {{nodeGroups: [web]}}\n{rest}"
    )
}

/// A repository whose one book writes one file.
pub fn one_file(folder: &Path) -> Repository {
    let repository = Repository::new(folder, "fleet");
    repository.write("fleet.yaml", FLEET);
    change(&repository, "one");
    repository
}

/// Replaces the content of that file.
pub fn change(repository: &Repository, text: &str) {
    repository.write(
        "a.yaml",
        book("a", &format!("  tasks:\n    - name: a\n      file: {{path: /a, content: \"{text}\"}}\n")),
    );
}

/// A key pair of ssh-keygen.
#[derive(Debug)]
pub struct SshSigner {
    key: PathBuf,
}

impl SshSigner {
    /// Makes a key pair.
    pub fn new(folder: &Path, name: &str) -> Self {
        let key = folder.join(name);
        ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&key));
        Self { key }
    }

    /// Its line in a file of allowed signers.
    pub fn line(&self, options: &str) -> String {
        let public = fs::read_to_string(self.key.with_extension("pub")).unwrap();
        let words: Vec<&str> = public.split_whitespace().collect();
        format!("{}@example.org {options}{} {}\n", words[2], words[0], words[1])
    }

    /// The settings by which git signs with it.
    pub fn settings(&self) -> [String; 3] {
        ["gpg.format=ssh".into(), format!("user.signingKey={}", self.key.display()), "commit.gpgSign=true".into()]
    }

    /// Has the one file say something else, and signs that.
    pub fn commit(&self, repository: &Repository, text: &str) -> String {
        change(repository, text);
        let settings = self.settings();
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting.as_str()]).collect();
        repository.commit_with(text, &arguments)
    }
}

/// A home of gpg with one key.
#[derive(Debug)]
pub struct GpgSigner {
    /// The home of gpg.
    pub home: PathBuf,
    /// The address of its user id.
    pub name: String,
    _agent: Running,
}

impl GpgSigner {
    /// Makes an Ed25519 key.
    pub fn new(folder: &Path, name: &str, expires: &str) -> Self {
        Self::of_kind(folder, name, "ed25519", "sign", expires)
    }

    /// Makes a key of a kind.
    pub fn of_kind(folder: &Path, name: &str, kind: &str, usage: &str, expires: &str) -> Self {
        let home = folder.join(format!("gpg-{name}"));
        fs::create_dir_all(&home).unwrap();
        ok(Command::new("chmod").arg("700").arg(&home));
        let agent = gpg_agent(&home);
        let signer = Self { home, name: format!("{name}@example.org"), _agent: agent };
        ok(signer.gpg().args(["--quick-generate-key", &signer.name, kind, usage, expires]));
        signer
    }

    /// gpg with this home.
    pub fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", &self.home).args([
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        gpg
    }

    /// The armoured public key.
    pub fn public(&self) -> String {
        String::from_utf8(ok(self.gpg().args(["--armor", "--export", &self.name])).stdout).unwrap()
    }

    /// The fingerprint of the primary key.
    pub fn fingerprint(&self) -> String {
        let listed = ok(self.gpg().args(["--with-colons", "--list-keys", &self.name])).stdout;
        let listed = String::from_utf8(listed).unwrap();
        let line = listed.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// Has the one file say something else, and signs that.
    pub fn commit(&self, repository: &Repository, text: &str) -> String {
        change(repository, text);
        ok(git(&repository.work).args(["add", "-A"]));
        ok(self.git(repository).args(["commit", "-q", "-S", "-m", text]));
        repository.head()
    }

    /// git in the working copy, which signs with this key.
    pub fn git(&self, repository: &Repository) -> Command {
        let mut git = git(&repository.work);
        git.env("GNUPGHOME", &self.home).arg("-c").arg(format!("user.signingKey={}", self.name));
        git
    }
}

/// Starts the agent of gpg for a home, and waits until it answers. The test does not own an agent that gpg starts.
pub fn gpg_agent(home: &Path) -> Running {
    let agent = Running::start(
        Command::new("gpg-agent").arg("--homedir").arg(home).arg("--daemon"),
        Stdio::null(),
        Stdio::null(),
    );
    let mut asks = Command::new("gpg-connect-agent");
    // Without an agent, this command succeeds too, and prints no data line.
    asks.arg("--homedir").arg(home).args(["--no-autostart", "GETINFO pid", "/bye"]);
    wait_until(Duration::from_secs(60), || output(&mut asks).stdout.starts_with(b"D "), || format!("{agent:?}"));
    agent
}
