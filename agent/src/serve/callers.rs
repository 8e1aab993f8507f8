//! Limits the API calls of each caller: the expensive calls of one caller run one at a time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status, transport::server::UdsConnectInfo};

use super::tls::Caller;

/// The maximum number of waiting calls of one caller.
const WAITING: usize = 4;

/// The queues of expensive API calls; each caller has a separate queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers(Arc<Mutex<BTreeMap<String, Arc<Turns>>>>);

#[derive(Debug)]
struct Turns {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// The permission of a caller to run one expensive call. The permission to run an expensive call ends when this value
/// is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _running: OwnedSemaphorePermit,
    _turns: Arc<Turns>,
}

impl Callers {
    /// Waits until no other expensive call of the same caller runs.
    ///
    /// # Errors
    /// Fails if too many calls of the same caller are waiting.
    pub(super) async fn turn<T>(&self, request: &Request<T>) -> Result<Turn, Status> {
        self.turn_of(caller(request)).await
    }

    async fn turn_of(&self, caller: String) -> Result<Turn, Status> {
        let turns = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Queues of callers without calls are dropped.
            known.retain(|name, turns| *name == caller || Arc::strong_count(turns) > 1);
            Arc::clone(known.entry(caller.clone()).or_insert_with(|| {
                Arc::new(Turns { running: Arc::new(Semaphore::new(1)), waiting: Arc::new(Semaphore::new(WAITING)) })
            }))
        };
        let refused = || {
            let message =
                format!("{caller} has {WAITING} waiting calls of `plan` and `view`; retry when these calls have ended");
            Status::resource_exhausted(message)
        };
        let _waiting = Arc::clone(&turns.waiting).try_acquire_owned().map_err(|_| refused())?;
        let running = Arc::clone(&turns.running).acquire_owned().await.map_err(|_| refused())?;
        Ok(Turn { _running: running, _turns: turns })
    }
}

/// Returns the caller of a request: the subject of the caller's certificate, or the caller's user id on the Unix
/// socket.
fn caller<T>(request: &Request<T>) -> String {
    if let Some(Caller(subject, _)) = request.extensions().get::<Caller>() {
        return format!("the {} {}", subject.role.name(), subject.name);
    }
    let user = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred).map(|peer| peer.uid());
    user.map_or_else(|| "an unknown user".into(), |user| format!("the user with the id {user}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_of_one_caller_run_one_at_a_time_and_others_do_not_wait() {
        let callers = Callers::default();
        let first = callers.turn_of("ann".into()).await.unwrap();
        let other = callers.turn_of("bob".into()).await.unwrap();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let callers = callers.clone();
                tokio::spawn(async move { callers.turn_of("ann".into()).await.map(drop) })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert!(waiting.iter().all(|call| !call.is_finished()));
        assert_eq!(callers.turn_of("ann".into()).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop((first, other));
        for call in waiting {
            call.await.unwrap().unwrap();
        }
        drop(callers.turn_of("cid".into()).await.unwrap());
        assert_eq!(callers.0.lock().unwrap().len(), 1);
    }
}
