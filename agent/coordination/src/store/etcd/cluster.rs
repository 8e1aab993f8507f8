//! Failover between the members of an etcd cluster: a node sends a request to one member after another until a member
//! answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    access::ReadAccess,
    connection::{Connection, Member, SILENCE},
    members::{Admission, Members},
    verdict::{Fault, Kind, Said, Verdict, judge},
};
use crate::store::StoreError;

/// The pause before a node sends a request to all members again.
const PAUSE: Duration = Duration::from_millis(200);

/// States whether a node may repeat a request that an etcd member may already have executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// The node may repeat the request, because a second execution does no harm.
    Always,
    /// The node may repeat the request only if it is certain that no member has executed it.
    IfUnsent,
}

/// The reason why a request to the etcd cluster has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store answered with an error, or no member answered.
    Store(StoreError),
    /// The result is unknown, because a member may have executed the request without an answer.
    Unknown(String),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Store(error) => error,
            Failure::Unknown(why) => Self::Unreachable(why),
        }
    }
}

/// A connection to an etcd member, with the index of the member.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) member: usize,
    pub(super) connection: Connection,
}

/// The members of an etcd cluster, and this node's connections to the members.
pub(super) struct Cluster {
    links: Vec<Member>,
    access: ReadAccess,
    members: Mutex<Members>,
    began: Instant,
}

impl Cluster {
    pub(super) fn new(node: &str, endpoints: &[String], access: ReadAccess) -> Arc<Self> {
        let mut unique: Vec<String> = Vec::new();
        for endpoint in endpoints {
            if !unique.contains(endpoint) {
                unique.push(endpoint.clone());
            }
        }
        Arc::new(Self {
            members: Mutex::new(Members::new(node, &unique)),
            links: unique.into_iter().map(Member::new).collect(),
            access,
            began: Instant::now(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Sends a request to one member after another until a member answers. `what` is the name of the request in trace
    /// logs.
    pub(super) async fn request<T, A>(&self, what: &str, repeat: Repeat, ask: impl Fn(Route) -> A) -> Result<T, Failure>
    where
        A: Future<Output = Result<T, Said>>,
    {
        tracing::trace!(what, "request");
        let started = self.now();
        let admission = self.lock().admit(started);
        let patient = match admission {
            Admission::Refused(error) => return Err(Failure::Store(error)),
            Admission::Ask { patient } => patient,
        };
        let mut faults: BTreeMap<usize, Fault> = BTreeMap::new();
        let mut rounds = 0_u32;
        loop {
            rounds = rounds.saturating_add(1);
            let round = self.lock().round(self.now());
            for member in round {
                match Box::pin(self.attempt(member, &ask)).await {
                    Ok(answer) => {
                        self.lock().answered(member, self.now());
                        return Ok(answer);
                    }
                    Err(Verdict::Move(fault)) => {
                        self.note(member, &fault);
                        if fault.unknown && repeat == Repeat::IfUnsent {
                            self.lock().ended_probe();
                            return Err(Failure::Unknown(self.named(member, &fault.why)));
                        }
                        faults.insert(member, fault);
                    }
                    Err(Verdict::Final(error)) => {
                        self.lock().answered(member, self.now());
                        return Err(Failure::Store(self.at(member, error)));
                    }
                    Err(Verdict::NewToken(why)) => {
                        let fault = Fault { kind: Kind::Refused, unknown: false, why };
                        self.note(member, &fault);
                        faults.insert(member, fault);
                    }
                }
            }
            // A member without a leader does answer, and has a leader soon, so the request is tried for longer.
            let patient = patient || faults.values().any(|fault| fault.kind == Kind::NoLeader);
            let now = self.now();
            if !self.lock().again(patient, rounds, started, now) {
                let error = self.error(&faults);
                self.lock().gave_up(error.clone(), started, now);
                return Err(Failure::Store(error));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends a request to one member. If the member rejects the authentication token, the function gets a new token and
    /// repeats the request once.
    async fn attempt<T, A>(&self, member: usize, ask: &impl Fn(Route) -> A) -> Result<T, Verdict>
    where
        A: Future<Output = Result<T, Said>>,
    {
        let Some(link) = self.links.get(member) else {
            return Err(Verdict::Move(Fault::silent(0, false)));
        };
        let mut renewed = false;
        loop {
            let connection = link.connect(&self.access).await.map_err(Verdict::Move)?;
            let request = ask(Route { member, connection: connection.clone() });
            let verdict = tokio::select! {
                answer = tokio::time::timeout(SILENCE, request) => match answer {
                    Ok(Ok(answer)) => {
                        connection.prove();
                        return Ok(answer);
                    }
                    Ok(Err(said)) => judge(&said, connection.shows),
                    Err(_) => Verdict::Move(Fault::silent(SILENCE.as_secs(), true)),
                },
                () = connection.given_up() => Verdict::Move(Fault::given_up()),
            };
            match verdict {
                Verdict::NewToken(_) if !renewed => link.give_up(&connection),
                // etcd 3.4 gives the same reason for an expired token and for a missing permission.
                Verdict::NewToken(why) if why.contains("permission denied") => {
                    return Err(Verdict::Final(StoreError::Denied(why)));
                }
                Verdict::Move(fault) => {
                    if fault.kind != Kind::NoLeader {
                        link.give_up(&connection);
                    }
                    return Err(Verdict::Move(link.explain(&connection, fault).await));
                }
                verdict => return Err(verdict),
            }
            renewed = true;
        }
    }

    /// Records that a watch stream from a member broke, so that later requests avoid the member.
    pub(super) fn broke(&self, route: &Route, said: &Said) {
        match judge(said, route.connection.shows) {
            Verdict::Move(fault) => {
                if let Some(link) = self.links.get(route.member)
                    && fault.kind != Kind::NoLeader
                {
                    link.give_up(&route.connection);
                }
                self.note(route.member, &fault);
            }
            // The next request over this connection gets the same error, and handles it.
            Verdict::Final(_) | Verdict::NewToken(_) => {}
        }
    }

    fn note(&self, member: usize, fault: &Fault) {
        if self.lock().failed(member, self.now()) {
            tracing::info!(endpoint = self.endpoint(member), cause = fault.why, "etcd member failed");
        }
    }

    fn endpoint(&self, member: usize) -> &str {
        self.links.get(member).map_or("", |link| &link.endpoint)
    }

    fn named(&self, member: usize, why: &str) -> String {
        format!("{}: {why}", self.endpoint(member))
    }

    /// Adds the endpoint of the member to the message of an error. If etcd is full, adds the command that frees space.
    fn at(&self, member: usize, error: StoreError) -> StoreError {
        match error {
            StoreError::Denied(why) => StoreError::Denied(self.named(member, &why)),
            StoreError::Full { .. } => StoreError::Full { command: self.command_for_room() },
            other => other,
        }
    }

    fn error(&self, faults: &BTreeMap<usize, Fault>) -> StoreError {
        let why: Vec<String> = faults.iter().map(|(member, fault)| self.named(*member, &fault.why)).collect();
        if faults.values().any(|fault| fault.kind == Kind::Refused) {
            return StoreError::Denied(why.join("; "));
        }
        StoreError::Unreachable(why.join("; "))
    }

    /// Returns the shell command that frees space in a full etcd.
    fn command_for_room(&self) -> String {
        let all = self.links.iter().map(|link| link.endpoint.as_str()).collect::<Vec<_>>().join(",");
        format!(
            "etcdctl --endpoints={all} compact $(etcdctl --endpoints={all} endpoint status --write-out=json | grep -o '\"revision\":[0-9]*' | grep -o '[0-9]*' | sort -n | tail -1) && etcdctl --endpoints={all} defrag && etcdctl --endpoints={all} alarm disarm"
        )
    }
}
