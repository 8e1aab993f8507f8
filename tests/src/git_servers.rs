//! Real git servers: nginx with TLS and git http-backend, and sshd.

use std::{
    ffi::OsString,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{Running, ok, output, wait_until};

/// Returns a free port outside the range of the kernel. Each test process counts from a number of its own.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97) % 12_000;
    let port = || u16::try_from(20_000 + (first + NEXT.fetch_add(1, Ordering::SeqCst)) % 12_000).unwrap();
    std::iter::repeat_with(port).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn listening(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// A certificate authority, and certificates from it.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes an authority.
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let authority = Self { folder: folder.to_owned() };
        ok(Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=test-ca",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
            ])
            .arg("-keyout")
            .arg(folder.join("ca.key"))
            .arg("-out")
            .arg(authority.certificate()));
        authority
    }

    /// The authority that was made in a folder.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate and its key, for localhost and for clients.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue_for(name, "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    }

    /// A certificate and its key, with these extensions.
    pub fn issue_for(&self, name: &str, extensions: &str) -> (PathBuf, PathBuf) {
        self.issue_days(name, extensions, "30")
    }

    /// The same, valid for so many days from now; for -1 it has expired.
    pub fn issue_days(&self, name: &str, extensions: &str, days: &str) -> (PathBuf, PathBuf) {
        let file = |ending: &str| self.folder.join(format!("{name}.{ending}"));
        ok(Command::new("openssl")
            .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"])
            .arg(format!("/CN={name}"))
            .arg("-keyout")
            .arg(file("key"))
            .arg("-out")
            .arg(file("csr")));
        fs::write(file("ext"), extensions).unwrap();
        ok(Command::new("openssl")
            .args(["x509", "-req", "-days", days, "-CAcreateserial"])
            .arg("-CA")
            .arg(self.certificate())
            .arg("-CAkey")
            .arg(self.folder.join("ca.key"))
            .arg("-in")
            .arg(file("csr"))
            .arg("-extfile")
            .arg(file("ext"))
            .arg("-out")
            .arg(file("pem")));
        (file("pem"), file("key"))
    }
}

/// git over https: nginx before git http-backend.
#[derive(Debug)]
pub struct Https {
    /// The port.
    pub port: u16,
    /// The authority of the server's certificate.
    pub authority: Authority,
    folder: PathBuf,
    address: String,
    /// The beginning of command lines, which enters the machine of the server.
    place: Vec<OsString>,
    nginx: Option<Running>,
    _backend: Running,
}

impl Https {
    /// Serves the repositories below a folder to user `agent` with password `gitpw`.
    pub fn start(folder: &Path, repositories: &Path) -> Self {
        Self::start_with(folder, repositories, "auth_basic git; auth_basic_user_file PASSWORDS;")
    }

    /// Serves with other rules about who may come in; PASSWORDS and CA stand for files.
    pub fn start_with(folder: &Path, repositories: &Path, access: &str) -> Self {
        Self::start_at(folder, repositories, access, "127.0.0.1", &Command::new("env"))
    }

    /// Serves at an address, where this command runs others. Files of the folder `static` are there for everybody.
    pub fn start_at(folder: &Path, repositories: &Path, access: &str, address: &str, place: &Command) -> Self {
        fs::create_dir_all(folder.join("tmp")).unwrap();
        fs::create_dir_all(folder.join("static")).unwrap();
        let authority = Authority::new(&folder.join("ca"));
        let names = format!("subjectAltName=DNS:localhost,IP:{address}\nextendedKeyUsage=serverAuth\n");
        let (certificate, key) = authority.issue_for("server", &names);
        let hash = ok(Command::new("openssl").args(["passwd", "-apr1", "gitpw"]));
        fs::write(folder.join("htpasswd"), format!("agent:{}", String::from_utf8(hash.stdout).unwrap())).unwrap();
        let exec_path = String::from_utf8(ok(Command::new("git").arg("--exec-path")).stdout).unwrap();
        let port = free_port();
        let access = access
            .replace("PASSWORDS", &folder.join("htpasswd").display().to_string())
            .replace("CA", &authority.certificate().display().to_string());
        let d = folder.display();
        let config = format!(
            "daemon off; worker_processes 1; pid {d}/nginx.pid; error_log {d}/nginx.err; user root;\nevents {{}}\nhttp {{ access_log {d}/nginx.log; client_body_temp_path {d}/tmp/b; proxy_temp_path {d}/tmp/p; fastcgi_temp_path {d}/tmp/f; uwsgi_temp_path {d}/tmp/u; scgi_temp_path {d}/tmp/s; client_max_body_size 0;\n server {{ listen {address}:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; {access}\n  location /static/ {{ alias {d}/static/; }}\n  location / {{ include /etc/nginx/fastcgi_params; fastcgi_pass unix:{d}/fcgi.sock; fastcgi_param SCRIPT_FILENAME {}/git-http-backend; fastcgi_param GIT_PROJECT_ROOT {}; fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param GIT_CONFIG_COUNT 1; fastcgi_param GIT_CONFIG_KEY_0 safe.directory; fastcgi_param GIT_CONFIG_VALUE_0 *; fastcgi_param PATH_INFO $uri; fastcgi_param REMOTE_USER agent; fastcgi_param GIT_PROTOCOL $http_git_protocol; }} }} }}\n",
            certificate.display(),
            key.display(),
            exec_path.trim(),
            repositories.display()
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let backend = Running::start(
            Command::new("fcgiwrap").args(["-c", "2", "-s"]).arg(format!("unix:{d}/fcgi.sock")),
            Stdio::null(),
            Stdio::null(),
        );
        let words = std::iter::once(place.get_program()).chain(place.get_args()).map(OsString::from);
        let (folder, address) = (folder.to_owned(), address.to_owned());
        let mut server =
            Self { port, authority, folder, address, place: words.collect(), nginx: None, _backend: backend };
        server.up();
        server
    }

    /// Starts nginx.
    pub fn up(&mut self) {
        let config = self.folder.join("nginx.conf");
        let log = fs::File::create(self.folder.join("nginx.out")).unwrap();
        let mut nginx = Command::new(&self.place[0]);
        nginx.args(&self.place[1..]).arg("nginx").arg("-c").arg(config);
        self.nginx = Some(Running::start(&nginx, Stdio::null(), log));
        let mut asks = Command::new(&self.place[0]);
        asks.args(&self.place[1..]).args(["curl", "-ks", "-o", "/dev/null"]).arg(self.file("nothing"));
        wait_until(
            Duration::from_secs(10),
            || output(&mut asks).status.success(),
            || fs::read_to_string(self.folder.join("nginx.out")).unwrap_or_default(),
        );
    }

    /// Takes nginx away.
    pub fn down(&mut self) {
        if let Some(mut nginx) = self.nginx.take() {
            nginx.terminate();
        }
    }

    /// The URL of a repository.
    pub fn url(&self, name: &str) -> String {
        let host = if self.address == "127.0.0.1" { "localhost" } else { &self.address };
        format!("https://{host}:{}/{name}.git", self.port)
    }

    /// Returns the folder of the files that need no password.
    pub fn files(&self) -> PathBuf {
        self.folder.join("static")
    }

    /// The URL of such a file.
    pub fn file(&self, name: &str) -> String {
        format!("https://{}:{}/static/{name}", self.address, self.port)
    }

    /// Returns the server's log of requests.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("nginx.log")).unwrap_or_default()
    }
}

/// git over ssh: a real sshd with a deploy key.
#[derive(Debug)]
pub struct Ssh {
    /// The port.
    pub port: u16,
    /// The deploy key.
    pub key: PathBuf,
    /// The file with the server's host key.
    pub known_hosts: PathBuf,
    _server: Running,
}

impl Ssh {
    /// Starts a server that runs what git asks for.
    pub fn start(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "deploy", "other"] {
            ok(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"])
                .arg(folder.join(key)));
        }
        let public = |key: &str| fs::read_to_string(folder.join(format!("{key}.pub"))).unwrap();
        fs::write(folder.join("authorized"), format!("restrict {}", public("deploy"))).unwrap();
        let port = free_port();
        let d = folder.display();
        // Sessions run no login script of this machine, which may wait for a lock that a killed process has left.
        let config = format!(
            "SetEnv HOME={d}\nListenAddress 127.0.0.1:{port}\nHostKey {d}/host\nAuthorizedKeysFile {d}/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile {d}/pid\nAcceptEnv GIT_PROTOCOL\n"
        );
        fs::write(folder.join("config"), config).unwrap();
        let host_key: Vec<String> = public("host").split_whitespace().take(2).map(str::to_owned).collect();
        fs::write(
            folder.join("known_hosts"),
            format!("[127.0.0.1]:{port} {}\n[localhost]:{port} {}\n", host_key.join(" "), host_key.join(" ")),
        )
        .unwrap();
        let other: Vec<String> = public("other").split_whitespace().take(2).map(str::to_owned).collect();
        fs::write(folder.join("wrong_hosts"), format!("[127.0.0.1]:{port} {}\n", other.join(" "))).unwrap();
        let server = Running::start(
            Command::new("/usr/sbin/sshd")
                .arg("-D")
                .arg("-f")
                .arg(folder.join("config"))
                .arg("-E")
                .arg(folder.join("log")),
            Stdio::null(),
            Stdio::null(),
        );
        wait_until(
            Duration::from_secs(10),
            || listening(port),
            || fs::read_to_string(folder.join("log")).unwrap_or_default(),
        );
        Self { port, key: folder.join("deploy"), known_hosts: folder.join("known_hosts"), _server: server }
    }

    /// The URL of a repository.
    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, repository.display())
    }
}
