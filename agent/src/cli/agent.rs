//! `towpath agent`: the daemon, and one pass with `--once`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use towpath_coordination::{LocalStore, Store, store::etcd::EtcdStore};
use towpath_host::SystemClock;

use super::{Output, exit, exit::Failure, output, status};
use crate::{
    config::{self, DataStore, Settings},
    reconcile::{Ended, Node, Options, Queue},
    serve,
};

/// How long a run may take to come to the end of its task when the agent stops.
const GRACE: Duration = Duration::from_secs(30);

/// Runs the agent.
#[derive(Debug, Args)]
pub(super) struct Agent {
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
    pub(super) fn run(self) -> Result<u8, Failure> {
        let settings = config::load(&self.config, &super::worktree::host_name())?;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let socket = settings.socket.clone();
        let store = store(&settings)?;
        let mut node = Node::open(Options { settings, store, clock: Arc::new(SystemClock) })?;
        if self.once {
            let ended = node.once();
            let status = node.handle().status();
            output::print(self.output.output, &status, || status::text(&status))?;
            return Ok(match ended {
                Ended::Done => 0,
                Ended::Unreachable => exit::ERROR,
                Ended::Rejected => exit::INVALID,
                Ended::Failed => exit::FAILED,
                Ended::Held => exit::HELD,
            });
        }
        daemon(node, socket)
    }
}

/// Where this node agrees with others.
fn store(settings: &Settings) -> Result<Arc<dyn Store>, Failure> {
    Ok(match &settings.data_store {
        DataStore::Local => Arc::new(LocalStore::default()),
        DataStore::Etcd(etcd) => {
            let options = etcd.read(&settings.cluster)?;
            Arc::new(EtcdStore::new(options).map_err(|error| Failure::error(&error))?)
        }
    })
}

fn daemon(mut node: Node, socket: PathBuf) -> Result<u8, Failure> {
    let handle = node.handle();
    let queue = node.queue();
    let cancel = node.cancel();
    watchdog(queue.clone());

    block_on_small(async move {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| Failure::error(&error))?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
            .map_err(|error| Failure::error(&error))?;
        let (stopped, stop) = tokio::sync::oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let until = async { drop(stop.await) };
            serve::serve(handle, &socket, until).await
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
        queue.poke(|wake| wake.stop = true);
        if early.is_none() {
            // The task at hand is finished; a command that does not come to an end is ended.
            if tokio::time::timeout(GRACE, &mut running).await.is_err() {
                tracing::warn!("a task does not come to its end, and is cut off");
                cancel.cancel();
                let _ = tokio::time::timeout(Duration::from_secs(10), &mut running).await;
            }
        }
        let _ = stopped.send(());
        match tokio::time::timeout(Duration::from_secs(2), server).await {
            Ok(Ok(Err(error))) => Err(Failure::error(&error)),
            _ => match early {
                Some(Err(error)) => Err(Failure::failed(format!("the agent broke off: {error}"))),
                _ => Ok(0),
            },
        }
    })?
}

/// How long a single task may keep the loop from coming round before systemd is let to end the agent.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Tells systemd that the agent is alive for as long as its loop, or a run in it, goes on.
fn watchdog(queue: Queue) {
    std::thread::spawn(move || {
        let step = Duration::from_secs(20);
        let (mut last, mut still) = (queue.progress(), Duration::ZERO);
        while still < PATIENCE {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            std::thread::sleep(step);
            let now = queue.progress();
            still = if now == last { still + step } else { Duration::ZERO };
            last = now;
        }
    });
}

/// Tells systemd that the agent is ready and how it is.
fn alive(message: &str) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(message)]);
}

/// A runtime whose threads are few: an idle agent is to be small.
fn block_on_small<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_stack_size(512 << 10)
        .enable_all()
        .build()
        .map_err(|error| Failure::error(&error))?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result)
}
