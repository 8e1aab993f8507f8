//! Reads the bootstrap file of a node, and converts the file into [`Settings`]. The bootstrap file is a Config object.

mod etcd;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;
use towpath_git as git;
use towpath_host::{identity::TlsFiles, own::files};
use towpath_proto::v1alpha as pb;
use towpath_render::{
    document::{Limits, check_object, parse, typed},
    objects::task::Drift,
    problem::{Finding, Problem},
    scalars,
};

pub use self::etcd::EtcdSettings;

/// The settings of the bootstrap file, with defaults filled in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the node.
    pub node: String,
    /// The name of the cluster.
    pub cluster: String,
    /// The folder below which modules manage files.
    pub root: PathBuf,
    /// The folder of the git mirrors and the journal.
    pub state_dir: PathBuf,
    /// The sources, in the order of the bootstrap file.
    pub sources: Vec<Source>,
    /// The path of the Unix socket of the API.
    pub socket: PathBuf,
    /// The address of the API for other machines. `api` is `None` if other machines cannot connect.
    pub api: Option<SocketAddr>,
    /// The files of the node's certificate.
    pub tls: Option<TlsFiles>,
    /// The reconcile settings that the bootstrap file sets.
    pub reconcile: WrittenReconcile,
    /// The folders of custom facts.
    pub facts_d: Vec<PathBuf>,
    /// The data store of the fleet.
    pub data_store: DataStore,
    /// The certificates and keys that the bootstrap file revokes, in addition to the revocations in git. The
    /// revocations of the bootstrap file apply from the start of the agent.
    pub revoked: Vec<String>,
    /// The warnings about the bootstrap file.
    pub warnings: Vec<String>,
}

/// The data store of the fleet.
#[derive(Debug, Clone, Default)]
pub enum DataStore {
    /// A local data store, which only this process uses.
    #[default]
    Local,
    /// An etcd cluster, which all nodes of the fleet share.
    Etcd(Box<EtcdSettings>),
}

impl Settings {
    /// Returns whether the node coordinates with other nodes through etcd.
    pub fn coordinated(&self) -> bool {
        matches!(self.data_store, DataStore::Etcd(_))
    }
}

/// A git source that the node follows.
#[derive(Debug, Clone)]
pub struct Source {
    /// The options for fetching and verifying the source.
    pub git: git::Options,
    /// The interval between polls of the source.
    pub interval: Duration,
    /// True if the source contains only files for includes and templates.
    pub library: bool,
    /// True if the source is permitted to define objects of global kinds.
    pub globals: bool,
}

/// The reconcile settings that are written in the bootstrap file. Config objects in git can set the settings that the
/// bootstrap file omits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WrittenReconcile {
    /// The interval between passes.
    pub interval: Option<Duration>,
    /// The jitter of the interval, in percent.
    pub jitter: Option<u64>,
    /// The default drift policy of tasks.
    pub drift: Option<Drift>,
}

impl WrittenReconcile {
    /// The shortest interval between passes. The limit protects the fleet, because a very short interval would keep all
    /// nodes busy.
    const SHORTEST: Duration = Duration::from_secs(1);

    fn read(written: &pb::Reconcile) -> Self {
        let percent = |text: &str| text.trim().trim_end_matches('%').trim_end().parse().ok();
        Self {
            interval: written.interval.as_deref().and_then(|text| scalars::duration(text).ok()),
            jitter: written.jitter.as_deref().and_then(percent),
            drift: written.drift.as_deref().map(Drift::read),
        }
    }

    /// Returns the reconcile settings of a node. The order of precedence is: the bootstrap file, the first Config
    /// object in git, the defaults.
    #[must_use]
    pub fn or_of<'a>(self, configs: impl IntoIterator<Item = &'a pb::Config>) -> Reconcile {
        let written = configs.into_iter().filter_map(|config| config.reconcile.as_ref()).map(Self::read);
        let all = written.fold(self, |all, next| Self {
            interval: all.interval.or(next.interval),
            jitter: all.jitter.or(next.jitter),
            drift: all.drift.or(next.drift),
        });
        Reconcile {
            interval: all.interval.unwrap_or(Duration::from_secs(600)).max(Self::SHORTEST),
            jitter: all.jitter.unwrap_or(10),
            drift: all.drift.unwrap_or(Drift::Correct),
        }
    }
}

/// The reconcile settings of a node, with defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconcile {
    /// The interval between passes.
    pub interval: Duration,
    /// The jitter of the interval, in percent.
    pub jitter: u64,
    /// The default drift policy of tasks.
    pub drift: Drift,
}

/// The error that makes a bootstrap file unusable.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {file}", file = .file.display())]
    Unreadable {
        /// The path of the file.
        file: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The bootstrap file has mistakes.
    #[error("the configuration has {} mistake(s):\n{}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// Reads a file that is named on the command line.
///
/// # Errors
/// Fails if the file cannot be read.
pub fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    files::read(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })
}

/// Reads a bootstrap file, and fills in defaults for settings that the file does not contain.
///
/// # Errors
/// Fails if the file cannot be read or has mistakes. The error lists all schema errors in the bootstrap file. If the
/// bootstrap file has no schema errors, the error names the first invalid setting.
pub fn load(file: &Path, host_name: &str) -> Result<Settings, ConfigError> {
    let bytes = read(file)?;
    let shown = file.display().to_string();
    let (documents, mut problems) = parse("", &shown, &bytes, Limits::default());
    let whole = |finding: Finding| Problem {
        source: String::new(),
        file: shown.clone(),
        line: 1,
        column: 1,
        message: finding.message,
        hint: finding.hint,
        excerpt: String::new(),
        caret: 0,
        warning: false,
    };
    let [document] = documents.as_slice() else {
        if problems.is_empty() {
            problems.push(whole(
                Finding::new(format!("the file holds {} documents", documents.len()))
                    .hint("write exactly one Config document"),
            ));
        }
        return Err(ConfigError::Invalid(problems));
    };
    let mut document = document.clone();
    // The name of a Config is optional in a bootstrap file.
    if let Some(metadata) = document.value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("name").or_insert_with(|| "bootstrap".into());
    }
    let (kind, checked) = check_object(&document.value);
    let place = document.place();
    problems.extend(checked.findings.into_iter().map(|(path, at, finding)| place.below(&path).problem(finding, at)));
    if kind.is_some_and(|kind| kind.name != "Config") {
        problems.push(whole(Finding::new("the file is not a Config").hint("write kind: Config")));
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid(problems));
    }
    let spec: pb::Config = typed("Config", document.value.get("spec").unwrap_or(&Value::Null))
        .map_err(|error| ConfigError::Invalid(vec![whole(Finding::new(error.to_string()))]))?;
    let at = |key: &str, finding: Finding| {
        let mut problem = place.key("spec").key(key).problem(finding, towpath_render::document::At::Value);
        problem.excerpt = git::without_secrets(&problem.excerpt);
        ConfigError::Invalid(vec![problem])
    };
    resolve(file, &spec, host_name, &at)
}

fn resolve(
    file: &Path,
    spec: &pb::Config,
    host_name: &str,
    at: &dyn Fn(&str, Finding) -> ConfigError,
) -> Result<Settings, ConfigError> {
    if spec.sources.is_empty() {
        return Err(at(
            "sources",
            Finding::new("the file names no source").hint("write sources: [{name: fleet, url: …}]"),
        ));
    }
    let store = spec.data_store.clone().unwrap_or_default();
    let data_store = data_store(&store).map_err(|finding| at("dataStore", finding))?;
    if matches!(data_store, DataStore::Etcd(_)) && spec.sources.len() > 1 {
        return Err(at(
            "sources",
            Finding::new("with etcd, the bootstrap file must name exactly one source")
                .hint("name further sources in Config objects in git, so that all nodes use the same sources"),
        ));
    }
    if spec.listen.as_ref().is_some_and(|listen| listen.http.is_some()) {
        return Err(at("listen", Finding::new("http is not supported yet").hint("leave http out")));
    }
    let tls = spec.tls.as_ref().map(tls).transpose().map_err(|finding| at("tls", finding))?;
    let api = spec.listen.as_ref().and_then(|listen| listen.api.as_deref()).map(api).transpose();
    let api = api.map_err(|finding| at("listen", finding))?;
    if api.is_some() && tls.is_none() {
        return Err(at(
            "listen",
            Finding::new("the API for other machines needs certificates")
                .hint("write tls: {caFile, certFile, keyFile}; create the files with `towpath pki`"),
        ));
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let state_dir = PathBuf::from(spec.state_dir.clone().unwrap_or_else(|| "/var/lib/towpath".into()));
    let mut warnings = Vec::new();
    let mut names = BTreeSet::new();
    let mut sources = Vec::new();
    for written in &spec.sources {
        let source = source(written).map_err(|finding| at("sources", finding))?;
        if !names.insert(source.git.name.clone()) {
            return Err(at("sources", Finding::new(format!("two sources are called {}", source.git.name))));
        }
        warnings.extend(source_warnings(&source, matches!(data_store, DataStore::Etcd(_))));
        sources.push(source);
    }
    let listen = spec.listen.clone().unwrap_or_default();
    Ok(Settings {
        node: spec.node.clone().unwrap_or_else(|| host_name.to_owned()),
        cluster: spec.cluster.clone().unwrap_or_else(|| "default".into()),
        root: PathBuf::from(spec.root.clone().unwrap_or_else(|| "/".into())),
        state_dir,
        sources,
        api,
        tls,
        socket: PathBuf::from(listen.socket.unwrap_or_else(|| "/run/towpath/api.sock".into())),
        reconcile: spec.reconcile.as_ref().map(WrittenReconcile::read).unwrap_or_default(),
        facts_d: vec![folder.join("facts.d")],
        data_store,
        revoked: spec.revoked.clone(),
        warnings,
    })
}

/// Returns the warnings about insecure settings of a source. `coordinated` is true if the node coordinates with other
/// nodes.
pub fn source_warnings(source: &Source, coordinated: bool) -> Vec<String> {
    let git::Options { name, auth, verify, .. } = &source.git;
    let mut warnings = Vec::new();
    let unverified = verify.mode == git::VerifyMode::None;
    if unverified && !source.git.transport_is_trusted() {
        warnings.push(format!(
            "the source {name} is fetched from {} without TLS and without `verify`: anyone on the network path can run any command on this node",
            source.git.display_url()
        ));
    }
    if unverified && coordinated {
        warnings.push(format!(
            "the source {name} has `verify.mode: none`: anyone who can write to its git server, or impersonate the server, can run any command on every node; sign commits, and set `verify: {{mode: range, keyFiles: [...]}}"
        ));
    }
    let secret = auth.password_file.is_some() || auth.username_file.is_some() || auth.token_file.is_some();
    if secret && source.git.url.to_ascii_lowercase().starts_with("http://") {
        warnings.push(format!(
            "the source {name} sends its password or token to {} without TLS: anyone on the network path can read the password or token; use https",
            source.git.display_url()
        ));
    }
    warnings
}

/// Converts the data store section of the bootstrap file into settings.
fn data_store(written: &pb::DataStore) -> Result<DataStore, Finding> {
    if written.r#type.as_deref() != Some("etcd") {
        return Ok(DataStore::Local);
    }
    if written.endpoints.is_empty() {
        return Err(Finding::new("etcd needs endpoints").hint("write endpoints: [https://etcd1:2379, …]"));
    }
    let pairs = [
        ("certFile", "keyFile", &written.cert_file, &written.key_file),
        ("usernameFile", "passwordFile", &written.username_file, &written.password_file),
    ];
    for (one, other, first, second) in pairs {
        if first.is_some() != second.is_some() {
            return Err(Finding::new(format!("only one of {one} and {other} is set"))
                .hint("set both, or delete the one that is set"));
        }
    }
    let tls = written.ca_file.is_some() || written.cert_file.is_some();
    let mut seen = BTreeSet::new();
    for written in &written.endpoints {
        let endpoint = etcd::endpoint(written)
            .map_err(|why| Finding::new(format!("the endpoint {written:?} {why}")).hint("write https://HOST:2379"))?;
        if tls && endpoint.plain {
            return Err(Finding::new(format!(
                "the endpoint {written:?} does not use TLS, but `caFile` or `certFile` is set"
            ))
            .hint("write https://, or leave the files out"));
        }
        if !seen.insert(endpoint.authority) {
            return Err(Finding::new(format!("the endpoint {written:?} is given twice")).hint("keep one of them"));
        }
    }
    let path = |file: &Option<String>| file.as_ref().map(PathBuf::from);
    Ok(DataStore::Etcd(Box::new(EtcdSettings {
        endpoints: written.endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/').to_owned()).collect(),
        ca_file: path(&written.ca_file),
        cert_file: path(&written.cert_file),
        key_file: path(&written.key_file),
        username_file: path(&written.username_file),
        password_file: path(&written.password_file),
    })))
}

fn tls(written: &pb::Tls) -> Result<TlsFiles, Finding> {
    let file = |name: &str, file: &Option<String>| {
        file.as_ref().map(PathBuf::from).ok_or_else(|| Finding::new(format!("tls needs {name}")))
    };
    Ok(TlsFiles {
        ca: file("caFile", &written.ca_file)?,
        cert: file("certFile", &written.cert_file)?,
        key: file("keyFile", &written.key_file)?,
    })
}

fn api(written: &str) -> Result<SocketAddr, Finding> {
    written.parse().map_err(|_| {
        Finding::new(format!("{written:?} is not an address with a port"))
            .hint("write it like \"0.0.0.0:7443\" or \"[::]:7443\"")
    })
}

fn time(text: Option<&str>, otherwise: Duration) -> Duration {
    text.and_then(|text| scalars::duration(text).ok()).unwrap_or(otherwise)
}

/// Converts a source from the bootstrap file, or from a Config object in git, into settings.
///
/// # Errors
/// Fails with the first mistake in the source.
pub fn source(written: &pb::GitSource) -> Result<Source, Finding> {
    let reference = match (&written.branch, &written.tag, &written.commit) {
        (None, None, None) => git::Reference::Branch("main".into()),
        (Some(branch), None, None) => git::Reference::Branch(branch.clone()),
        (None, Some(tag), None) => git::Reference::Tag(tag.clone()),
        (None, None, Some(commit)) => git::Reference::Commit(commit.to_ascii_lowercase()),
        _ => return Err(Finding::new("branch, tag and commit exclude each other").hint("keep one of them")),
    };
    let auth = written.auth.clone().unwrap_or_default();
    let verify = written.verify.clone().unwrap_or_default();
    let mode = match verify.mode.as_deref() {
        Some("head") => git::VerifyMode::Head,
        Some("range") => git::VerifyMode::Range,
        _ => git::VerifyMode::None,
    };
    if mode != git::VerifyMode::None && verify.key_files.is_empty() {
        return Err(Finding::new("verify needs keyFiles")
            .hint("keyFiles are the root of trust: OpenPGP keys or an allowed_signers file on the node"));
    }
    let path = |file: Option<String>| file.map(PathBuf::from);
    let url = written.url.clone().unwrap_or_default();
    if url.starts_with("http")
        && url.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')))
    {
        return Err(Finding::new("the URL has credentials in it")
            .hint("write the credentials to files, and name the files in auth: {usernameFile, passwordFile}"));
    }
    Ok(Source {
        git: git::Options {
            name: written.name.clone().unwrap_or_default(),
            url,
            reference,
            path: written.path.clone().unwrap_or_else(|| ".".into()),
            auth: git::Auth {
                username_file: path(auth.username_file),
                password_file: path(auth.password_file),
                token_file: path(auth.token_file),
                ssh_key_file: path(auth.ssh_key_file),
                known_hosts_file: path(auth.known_hosts_file),
                ca_file: path(auth.ca_file),
                client_cert_file: path(auth.client_cert_file),
                client_key_file: path(auth.client_key_file),
            },
            verify: git::VerifyOptions {
                mode,
                key_files: verify.key_files.into_iter().map(PathBuf::from).collect(),
                signers: verify.signers,
            },
            allow_rewind: written.allow_rewind.unwrap_or(false),
            limits: git::Limits::default(),
        },
        interval: time(written.interval.as_deref(), Duration::from_secs(60)),
        library: written.library.unwrap_or(false),
        globals: written.globals.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(interval: &str, jitter: &str, drift: &str) -> pb::Reconcile {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        pb::Reconcile { interval: given(interval), jitter: given(jitter), drift: given(drift) }
    }

    /// Returns the resolved interval in milliseconds, the jitter and the drift policy.
    fn resolved(bootstrap: pb::Reconcile, git: &[pb::Reconcile]) -> (u128, u64, Drift) {
        let config = |written: &pb::Reconcile| pb::Config { reconcile: Some(written.clone()), ..pb::Config::default() };
        let git: Vec<pb::Config> = [pb::Config::default()].into_iter().chain(git.iter().map(config)).collect();
        let Reconcile { interval, jitter, drift } = WrittenReconcile::read(&bootstrap).or_of(&git);
        (interval.as_millis(), jitter, drift)
    }

    #[test]
    fn bootstrap_file_has_precedence_over_configs_in_git_field_by_field() {
        let none = || written("", "", "");
        assert_eq!(resolved(none(), &[]), (600_000, 10, Drift::Correct));
        assert_eq!(resolved(none(), &[written("5s", "0%", "report")]), (5_000, 0, Drift::Report));
        assert_eq!(resolved(written("1h", "", ""), &[written("5s", "20%", "report")]), (3_600_000, 20, Drift::Report));
        assert_eq!(
            resolved(written("", "5", "correct"), &[written("5s", "20%", "report")]),
            (5_000, 5, Drift::Correct)
        );
        // If several Config objects set a value, the first object by name counts.
        assert_eq!(
            resolved(none(), &[written("", "1%", ""), written("7s", "2%", "ignore")]),
            (7_000, 1, Drift::Ignore)
        );
    }

    #[test]
    fn interval_is_at_least_a_second() {
        assert_eq!(resolved(written("", "", ""), &[written("0s", "", "")]).0, 1_000);
        assert_eq!(resolved(written("10ms", "", ""), &[]).0, 1_000);
    }

    #[test]
    fn endpoints_must_fit_the_files_and_each_other() {
        let etcd = |endpoints: &[&str], ca: Option<&str>| {
            data_store(&pb::DataStore {
                r#type: Some("etcd".into()),
                endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
                ca_file: ca.map(str::to_owned),
                ..pb::DataStore::default()
            })
        };
        assert!(etcd(&["https://a:1", "https://b:1"], Some("/ca")).is_ok());
        assert!(etcd(&["http://a:1", "http://b:1"], None).is_ok());
        for (endpoints, ca) in [
            (&[][..], None),
            (&["https://a:1", "http://b:1"], Some("/ca")),
            (&["https://a:1", "https://A:1/"], Some("/ca")),
            (&["https://a:1", "b:1"], None),
        ] {
            assert!(etcd(endpoints, ca).is_err(), "{endpoints:?}");
        }
    }
}
