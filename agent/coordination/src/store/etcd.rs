//! The store of a fleet: etcd, over several endpoints, with or without TLS.
//!
//! Guarantees: what the trait says, by etcd's own. Assumptions: keys below the prefix are the cluster's alone.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use etcd_client as etcd;
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Answer, Change, Compare, LeaseId, MAX_OPERATIONS, Op, Outcome, Page, Read, Row, Store, StoreError, Txn};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing is asked after there was no answer.
const AWAY: Duration = Duration::from_secs(2);

/// How long to wait before a watch that broke off is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How an etcd is reached.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// The certificate authority that its members are known by, in PEM.
    pub ca: Option<Vec<u8>>,
    /// The certificate and the key that this node shows, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// A user and a password.
    pub user: Option<(String, String)>,
    /// What all keys begin with.
    pub prefix: String,
}

/// An etcd.
pub struct EtcdStore {
    runtime: Arc<Runtime>,
    /// Made with the first request: with a password the etcd is asked for a token, and may be away.
    client: Mutex<Option<etcd::Client>>,
    settings: etcd::ConnectOptions,
    /// Until when nothing is asked, because there was no answer: who asks many things in a row waits once.
    away: Mutex<Option<(tokio::time::Instant, StoreError)>>,
    options: EtcdOptions,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("endpoints", &self.options.endpoints).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// An etcd. Nothing is asked of it yet: it may be away while the node starts.
    ///
    /// # Errors
    /// When there can be no threads.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .thread_stack_size(512 << 10)
            .enable_all()
            .build()
            .map_err(|error| StoreError::Unreachable(error.to_string()))?;
        let mut settings = etcd::ConnectOptions::new()
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(3))
            .with_connect_timeout(Duration::from_secs(2))
            .with_timeout(TIMEOUT)
            .with_require_leader(true);
        if options.ca.is_some() || options.identity.is_some() {
            let mut tls = etcd::TlsOptions::new();
            if let Some(ca) = &options.ca {
                tls = tls.ca_certificate(etcd::Certificate::from_pem(ca));
            }
            if let Some((certificate, key)) = &options.identity {
                tls = tls.identity(etcd::Identity::from_pem(certificate, key));
            }
            settings = settings.with_tls(tls);
        }
        if let Some((user, password)) = &options.user {
            settings = settings.with_user(user, password).with_auto_token_refresh(true);
        }
        Ok(Self { runtime: Arc::new(runtime), client: Mutex::default(), settings, away: Mutex::default(), options })
    }

    fn client(&self) -> Result<etcd::Client, StoreError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let connect = etcd::Client::connect(&self.options.endpoints, Some(self.settings.clone()));
        let made = self.ask(connect)?;
        *client = Some(made.clone());
        Ok(made)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.options.prefix)
    }

    fn row(&self, pair: &etcd::KeyValue) -> Row {
        row(&self.options.prefix, pair)
    }

    fn failure(&self, error: &etcd::Error) -> StoreError {
        failure(error, &self.options.endpoints)
    }

    fn ask<T>(&self, request: impl Future<Output = Result<T, etcd::Error>>) -> Result<T, StoreError> {
        let now = tokio::time::Instant::now();
        let known = self.away.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, error)) = known.filter(|(until, _)| now < *until) {
            return Err(error);
        }
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(TIMEOUT, request).await })
            .map_err(|_| StoreError::Unreachable(format!("no answer from {}", self.options.endpoints.join(", "))))
            .and_then(|answer| answer.map_err(|error| self.failure(&error)));
        let away = match &answer {
            Err(error @ StoreError::Unreachable(_)) => Some((tokio::time::Instant::now() + AWAY, error.clone())),
            _ => None,
        };
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = away;
        answer
    }

    fn compare(&self, compare: &Compare) -> etcd::Compare {
        match compare {
            Compare::Absent(key) => etcd::Compare::create_revision(self.key(key), etcd::CompareOp::Equal, 0),
            Compare::Revision(key, revision) => {
                etcd::Compare::mod_revision(self.key(key), etcd::CompareOp::Equal, number(*revision))
            }
            Compare::NoneNewer(prefix, revision) => {
                etcd::Compare::mod_revision(self.key(prefix), etcd::CompareOp::Less, number(*revision) + 1)
                    .with_prefix()
            }
        }
    }

    fn operation(&self, operation: &Op) -> etcd::TxnOp {
        match operation {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| etcd::PutOptions::new().with_lease(number(lease.0)));
                etcd::TxnOp::put(self.key(key), value.clone(), options)
            }
            Op::Delete(key) => etcd::TxnOp::delete(self.key(key), None),
            Op::DeleteAll(prefix) => {
                etcd::TxnOp::delete(self.key(prefix), Some(etcd::DeleteOptions::new().with_prefix()))
            }
            Op::Read(prefix) => etcd::TxnOp::get(self.key(prefix), Some(etcd::GetOptions::new().with_prefix())),
            Op::Oldest(prefix, limit) => {
                let options = etcd::GetOptions::new()
                    .with_prefix()
                    .with_sort(etcd::SortTarget::Create, etcd::SortOrder::Ascend)
                    .with_limit(number(*limit as u64));
                etcd::TxnOp::get(self.key(prefix), Some(options))
            }
            Op::Count(prefix) => {
                etcd::TxnOp::get(self.key(prefix), Some(etcd::GetOptions::new().with_prefix().with_count_only()))
            }
        }
    }
}

impl Store for EtcdStore {
    fn read(&self, prefix: &str, page: &Page) -> Result<Read, StoreError> {
        let from = page.after.as_ref().map_or_else(|| self.key(prefix), |after| format!("{}\0", self.key(after)));
        let options = etcd::GetOptions::new()
            .with_range(end(&self.key(prefix)))
            .with_limit(number(page.limit as u64))
            .with_sort(etcd::SortTarget::Key, etcd::SortOrder::Ascend);
        let mut client = self.client()?.kv_client();
        let response = self.ask(client.get(from, Some(options)))?;
        Ok(Read {
            rows: response.kvs().iter().map(|pair| self.row(pair)).collect(),
            revision: response.header().map_or(0, |header| header.revision().unsigned_abs()),
            more: response.more(),
        })
    }

    fn watch(&self, prefix: &str, from: u64) -> Result<mpsc::UnboundedReceiver<Change>, StoreError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch { client: self.client()?, key: self.key(prefix), cut: self.options.prefix.clone() };
        // What is no longer there is told at once; what breaks off later is taken up again.
        let first = self.ask(async { watch.clone().begin(from).await })?;
        if first.is_none() {
            return Err(StoreError::Compacted(from));
        }
        self.runtime.spawn(watch.follow(from, sender));
        Ok(receiver)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut client = self.client()?.lease_client();
        let seconds = number(ttl.as_secs().max(1));
        let response = self.ask(client.grant(seconds, None))?;
        Ok(LeaseId(response.id().unsigned_abs()))
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.client()?.lease_client();
        // The call itself keeps it alive once, and has the answer.
        let kept = self.ask(async {
            match client.keep_alive(number(lease.0)).await {
                Ok(_) => Ok(true),
                Err(etcd::Error::LeaseKeepAliveError(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })?;
        if kept { Ok(()) } else { Err(StoreError::LeaseGone) }
    }

    fn commit(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        let size = txn.then.len().max(txn.otherwise.len());
        if size > MAX_OPERATIONS {
            return Err(StoreError::TooLarge(size));
        }
        let request = etcd::Txn::new()
            .when(txn.compare.iter().map(|compare| self.compare(compare)).collect::<Vec<_>>())
            .and_then(txn.then.iter().map(|operation| self.operation(operation)).collect::<Vec<_>>())
            .or_else(txn.otherwise.iter().map(|operation| self.operation(operation)).collect::<Vec<_>>());
        let mut client = self.client()?.kv_client();
        let response = self.ask(client.txn(request))?;
        let revision = response.header().map_or(0, |header| header.revision().unsigned_abs());
        let answers = response
            .op_responses()
            .into_iter()
            .filter_map(|answer| match answer {
                etcd::TxnOpResponse::Get(get) => Some(Answer {
                    rows: get.kvs().iter().map(|pair| self.row(pair)).collect(),
                    count: get.count().unsigned_abs(),
                }),
                _ => None,
            })
            .collect();
        Ok(if response.succeeded() {
            Outcome::Done { revision, answers }
        } else {
            Outcome::Refused { revision, answers }
        })
    }
}

/// A watch that is taken up again where it broke off.
#[derive(Clone)]
struct Watch {
    client: etcd::Client,
    key: String,
    cut: String,
}

impl Watch {
    /// Begins; None where the changes since then are gone.
    async fn begin(self, from: u64) -> Result<Option<etcd::WatchStream>, etcd::Error> {
        let mut client = self.client.watch_client();
        let options = etcd::WatchOptions::new().with_prefix().with_start_revision(number(from));
        let mut stream = client.watch(self.key.clone(), Some(options)).await?;
        match stream.message().await? {
            Some(created) if created.compact_revision() > 0 => Ok(None),
            // A watch above the store's revision would be silent: the store has gone back.
            Some(created) if created.header().is_some_and(|header| number(from) > header.revision() + 1) => Ok(None),
            _ => Ok(Some(stream)),
        }
    }

    /// Sends changes until nobody listens. A gap that can't be filled ends it: who listens reads everything anew.
    async fn follow(self, mut from: u64, sender: mpsc::UnboundedSender<Change>) {
        while !sender.is_closed() {
            let begun = tokio::time::timeout(TIMEOUT, self.clone().begin(from)).await;
            let Ok(Ok(begun)) = begun else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Some(mut stream) = begun else { return };
            loop {
                let message = tokio::select! {
                    message = stream.message() => message,
                    () = sender.closed() => return,
                };
                let Ok(Some(message)) = message else { break };
                if message.compact_revision() > 0 {
                    return;
                }
                if message.canceled() {
                    break;
                }
                for event in message.events() {
                    let Some(pair) = event.kv() else { continue };
                    let row = row(&self.cut, pair);
                    from = from.max(row.modified + 1);
                    let change = match event.event_type() {
                        etcd::EventType::Put => Change::Put(row),
                        etcd::EventType::Delete => Change::Delete(row.key, row.modified),
                    };
                    if sender.send(change).is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn row(prefix: &str, pair: &etcd::KeyValue) -> Row {
    let key = String::from_utf8_lossy(pair.key());
    Row {
        key: key.strip_prefix(prefix).unwrap_or(&key).to_owned(),
        value: pair.value().to_vec(),
        created: pair.create_revision().unsigned_abs(),
        modified: pair.mod_revision().unsigned_abs(),
    }
}

/// The first key behind all keys with a prefix.
fn end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn failure(error: &etcd::Error, endpoints: &[String]) -> StoreError {
    let shown = endpoints.join(", ");
    match error {
        etcd::Error::GRpcStatus(status) => {
            let said = status.message();
            if said.contains("database space exceeded") {
                let command = format!(
                    "etcdctl --endpoints={} compact $(etcdctl --endpoints={} endpoint status --write-out=json | grep -o '\"revision\":[0-9]*' | grep -o '[0-9]*' | sort -n | tail -1) && etcdctl --endpoints={} defrag && etcdctl --endpoints={} alarm disarm",
                    endpoints.join(","),
                    endpoints.first().cloned().unwrap_or_default(),
                    endpoints.join(","),
                    endpoints.join(",")
                );
                return StoreError::Full { command };
            }
            if ["permission denied", "user name is empty", "authentication failed", "invalid auth token"]
                .iter()
                .any(|word| said.contains(word))
            {
                return StoreError::Denied(format!("{shown}: {said}; check the user, the certificate and its role"));
            }
            if said.contains("requested lease not found") {
                return StoreError::LeaseGone;
            }
            StoreError::Unreachable(format!("{shown}: {said}"))
        }
        etcd::Error::LeaseKeepAliveError(_) => StoreError::LeaseGone,
        other => StoreError::Unreachable(format!("{shown}: {other}")),
    }
}
