//! `towpath agent`: the daemon, and a single run with `--once`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use towpath_coordination::gossip::{self, Gossip, core::MembershipEvent};
use towpath_host::{
    Clock, SystemClock, facts,
    identity::{Credentials, Role},
};

use super::data_store;
use crate::{
    cli::{
        exit::{self, Failure},
        look::status,
        output::{self, Output},
        runtime::block_on_small,
        terminal,
    },
    config::{self, Settings},
    node::{Inbox, Node, Options, RunResult},
    serve::{self, Endpoints, PeerConnections, Shared},
    status::PeerService,
};

/// The time limit for the current task after the agent is asked to stop.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the agent.
#[derive(Debug, Args)]
pub(in crate::cli) struct Agent {
    /// The node's bootstrap file
    #[arg(long, default_value = "/etc/towpath/agent.yaml")]
    config: PathBuf,
    /// Fetch, apply, report, exit
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    output: Output,
}

impl Agent {
    pub(in crate::cli) fn run(self) -> Result<u8, Failure> {
        towpath_host::memory::share_one_arena();
        let settings = config::load(&self.config, &facts::host_name())?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let credentials = credentials(&settings, &clock)?;
        let store = data_store::open(&settings)?;
        let endpoints = (settings.socket.clone(), settings.api.filter(|_| !self.once));
        let options = Options { settings, store, clock: Arc::clone(&clock), credentials: credentials.clone() };
        let mut node = Node::open(options)?;
        if self.once {
            let ended = node.once();
            let status = node.queries().status();
            output::print(self.output.output, &status, || status::text(&status))?;
            return Ok(match ended {
                RunResult::Done => 0,
                RunResult::Unreachable => exit::ERROR,
                RunResult::Rejected => exit::INVALID,
                RunResult::Failed => exit::FAILED,
                RunResult::Held => exit::HELD,
            });
        }
        let shared = match (endpoints.1, credentials) {
            (Some(address), Some(credentials)) => {
                let shared =
                    Shared::listen(address, Arc::clone(&credentials)).map_err(|error| Failure::error(&error))?;
                Some((shared, address.port(), credentials))
            }
            _ => None,
        };
        daemon(node, endpoints.0, shared, clock)
    }
}

/// Reads the certificate of the node. Returns `None` if the settings name no certificate. A certificate of another node
/// is rejected.
fn credentials(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Option<Arc<Credentials>>, Failure> {
    let Some(files) = settings.tls.clone() else { return Ok(None) };
    let file = files.cert.display().to_string();
    let credentials = Credentials::read(files, Arc::clone(clock))?;
    let subject = credentials.now().subject.clone();
    if (subject.role, subject.name.as_str(), subject.cluster.as_str())
        != (Role::Node, &settings.node, &settings.cluster)
    {
        return Err(Failure::invalid(format!(
            "cannot use {file}: the certificate belongs to the {} {} of the cluster {}, but this node is {} of the cluster {}",
            subject.role.name(),
            subject.name,
            subject.cluster,
            settings.node,
            settings.cluster
        ))
        .hint("set node and cluster in agent.yaml to the names in the certificate, or issue another certificate with `towpath pki issue`"));
    }
    Ok(Some(Arc::new(credentials)))
}

/// The time after the start of the agent in which joining nodes cause no events.
const SETTLING: Duration = Duration::from_secs(15);

/// Starts the gossip of the node.
fn gossip(service: &PeerService, port: u16, credentials: Arc<Credentials>, clock: Arc<dyn Clock>, inbox: Inbox) {
    let options = gossip::Options {
        node: credentials.now().subject.name.clone(),
        incarnation: service.incarnation(),
        port,
        clock: Arc::clone(&clock),
        peers: Arc::new(PeerConnections::new(tokio::runtime::Handle::current(), credentials)),
    };
    let listener = service.clone();
    // Recording an event writes to disk, so a separate thread records the events.
    let (sender, event) = std::sync::mpsc::sync_channel::<MembershipEvent>(256);
    std::thread::spawn(move || {
        for event in event {
            listener.record_membership(&event, clock.wall());
        }
    });
    let began = options.clock.monotonic();
    let time = Arc::clone(&options.clock);
    let begun = Gossip::begin(options, move |event| {
        // Nodes that joined before this node are not reported as new.
        let settling = time.monotonic().duration_since(began) < SETTLING && matches!(event, MembershipEvent::Joined(_));
        if !settling && event != MembershipEvent::Slots && sender.try_send(event.clone()).is_err() {
            tracing::warn!(?event, "ignored a gossip event: too many gossip events at once");
        }
        inbox.notify(|work| match event {
            MembershipEvent::Accepted(_) => work.accepted = true,
            MembershipEvent::Lost(_) | MembershipEvent::Left(_) | MembershipEvent::Joined(_) => work.check = true,
            // Only nodes that wait for a slot need this event, and such nodes check on their own.
            MembershipEvent::Slots => {}
        });
    });
    match begun {
        Ok(gossip) => service.attach_gossip(gossip),
        Err(error) => tracing::error!(%error, "cannot start gossip; the data store alone decides which nodes are lost"),
    }
}

fn daemon(
    mut node: Node,
    socket: PathBuf,
    shared: Option<(Shared, u16, Arc<Credentials>)>,
    clock: Arc<dyn Clock>,
) -> Result<u8, Failure> {
    let (queries, peers) = (node.queries(), node.peers());
    let inbox = node.inbox();
    let cancel = node.cancel();
    watchdog(inbox.clone());

    block_on_small(async move {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| Failure::error(&error))?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .map_err(|error| Failure::error(&error))?;
        let shared = shared.map(|(shared, port, credentials)| {
            gossip(&peers, port, credentials, clock, inbox.clone());
            shared
        });
        let (stopped, stop) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let until = async { drop(stop.await) };
            serve::serve(queries, peers, Endpoints { socket, shared }, until).await
        });
        let mut running = tokio::task::spawn_blocking(move || {
            node.run(&alive);
            node
        });
        let mut early = None;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            ended = &mut running => early = Some(ended),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        inbox.notify(|work| work.stop = true);
        if early.is_none() {
            // The current task may finish. A command that takes too long is cancelled.
            if tokio::time::timeout(GRACE, &mut running).await.is_err() {
                tracing::warn!("a task did not end in time; stopping it");
                cancel.cancel();
                let _ = tokio::time::timeout(Duration::from_secs(10), &mut running).await;
            }
        }
        let _ = stopped.send(());
        match tokio::time::timeout(Duration::from_secs(2), server).await {
            Ok(Ok(Err(error))) => Err(Failure::error(&error)),
            _ => match early {
                Some(Err(error)) => Err(Failure::failed(format!(
                    "internal error: the agent stopped: {error}; report this error with the log"
                ))),
                _ => Ok(0),
            },
        }
    })?
}

/// The time without progress after which the watchdog of systemd may restart the agent.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(3600);

/// Reports to systemd that the agent is alive, as long as the main loop or a run makes progress.
fn watchdog(inbox: Inbox) {
    std::thread::spawn(move || {
        let step = Duration::from_secs(20);
        let (mut last, mut still) = (inbox.progress(), Duration::ZERO);
        while still < PROGRESS_TIMEOUT {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            std::thread::sleep(step);
            let now = inbox.progress();
            still = if now == last { still + step } else { Duration::ZERO };
            last = now;
        }
    });
}

/// Reports the readiness and the state of the agent to systemd. The status message is one line, because systemd reads
/// each line as an assignment.
fn alive(message: &str) {
    let line = terminal::escape(message).replace('\n', "; ");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&line)]);
}
