//! Work with git servers beside the main loop. A server that answers slowly, or never, must not keep the node from
//! correcting drift.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use crate::node::inbox::Inbox;

/// A gate through which only one job passes at a time, because two jobs may write the same mirrors.
pub(in crate::node) type Turn = Arc<Mutex<()>>;

/// One kind of work with git servers. `K` names the question, and `T` is the answer.
#[derive(Debug)]
pub(in crate::node) struct Beside<K, T> {
    turn: Turn,
    inbox: Inbox,
    /// The time for which the caller waits. `None` if the caller waits for the end of the work.
    patience: Option<Duration>,
    job: Option<Job<K, T>>,
}

/// Work in progress.
#[derive(Debug)]
struct Job<K, T> {
    question: K,
    answer: Receiver<T>,
    /// True if nobody waits for the answer. The end of the work then wakes the main loop.
    is_late: Arc<AtomicBool>,
}

impl<K: PartialEq, T: Send + 'static> Beside<K, T> {
    /// Creates the work for a caller that waits for its end.
    pub(in crate::node) fn new(turn: Turn, inbox: Inbox) -> Self {
        Self { turn, inbox, patience: None, job: None }
    }

    /// Makes the caller wait for a limited time from now on.
    pub(in crate::node) fn limit(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Returns the answer to a question. `None` if the work takes longer than the caller waits. The inbox is then
    /// notified at the end of the work, and the next call with the same question returns the answer. An answer to
    /// another question is dropped.
    pub(in crate::node) fn ask(&mut self, question: K, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let Some(patience) = self.patience else { return Some(work()) };
        if let Some(job) = self.job.take() {
            match job.answer.recv_timeout(Duration::ZERO) {
                Ok(answer) if job.question == question => return Some(answer),
                Err(RecvTimeoutError::Timeout) => {
                    self.job = Some(job);
                    return None;
                }
                Ok(_) | Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        let job = self.begin(question, work);
        let answer = job.answer.recv_timeout(patience).or_else(|_| {
            job.is_late.store(true, Ordering::SeqCst);
            // The work may have ended just before.
            job.answer.recv_timeout(Duration::ZERO)
        });
        match answer {
            Ok(answer) => Some(answer),
            // The work panicked, so the next call begins again.
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                tracing::info!("a git server has not answered yet; the agent continues with other work");
                self.job = Some(job);
                None
            }
        }
    }

    fn begin(&self, question: K, work: impl FnOnce() -> T + Send + 'static) -> Job<K, T> {
        let (sender, answer) = mpsc::channel();
        let is_late = Arc::new(AtomicBool::new(false));
        let (turn, inbox, late) = (Arc::clone(&self.turn), self.inbox.clone(), Arc::clone(&is_late));
        thread::spawn(move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sender.send(work());
            if late.load(Ordering::SeqCst) {
                inbox.notify(|work| work.moved = true);
            }
        });
        Job { question, answer, is_late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside() -> (Beside<u32, u32>, Inbox) {
        let inbox = Inbox::default();
        let beside = Beside::new(Turn::default(), inbox.clone());
        (Beside { patience: Some(Duration::from_millis(20)), ..beside }, inbox)
    }

    /// Returns work that ends when the sender is used or dropped.
    fn held(answer: u32) -> (mpsc::Sender<()>, impl FnOnce() -> u32 + Send + 'static) {
        let (end, ended) = mpsc::channel::<()>();
        (end, move || {
            let _ = ended.recv();
            answer
        })
    }

    /// Waits for the notification at the end of late work.
    fn wait_for_end(inbox: &Inbox) {
        assert!(inbox.take(Duration::from_secs(60)).moved);
    }

    #[test]
    fn caller_without_a_limit_gets_each_answer() {
        let mut beside = Beside::new(Turn::default(), Inbox::default());
        assert_eq!(beside.ask(1, || 7), Some(7));
    }

    #[test]
    fn answer_in_time_adds_no_work_to_the_inbox() {
        let (beside, inbox) = beside();
        let mut beside = Beside { patience: Some(Duration::from_secs(60)), ..beside };
        assert_eq!(beside.ask(1, || 7), Some(7));
        assert!(inbox.take(Duration::ZERO).is_empty());
    }

    #[test]
    fn late_answer_is_there_at_the_next_call_after_the_notification() {
        let (mut beside, inbox) = beside();
        let (end, work) = held(7);
        assert_eq!(beside.ask(1, work), None);
        assert_eq!(beside.ask(1, || panic!("the first work still runs")), None);
        drop(end);
        wait_for_end(&inbox);
        assert_eq!(beside.ask(1, || panic!("the answer is there")), Some(7));
        assert_eq!(beside.ask(1, || 8), Some(8), "the answer is used once");
    }

    #[test]
    fn answer_to_another_question_is_dropped() {
        let (mut beside, inbox) = beside();
        let (end, work) = held(7);
        assert_eq!(beside.ask(1, work), None);
        drop(end);
        wait_for_end(&inbox);
        assert_eq!(beside.ask(2, || 8), Some(8));
    }

    #[test]
    fn work_that_panics_is_begun_again() {
        let (mut beside, _) = beside();
        beside.patience = Some(Duration::from_secs(60));
        assert_eq!(beside.ask(1, || panic!("a crafted pack")), None);
        assert_eq!(beside.ask(1, || 8), Some(8));
    }

    #[test]
    fn work_of_another_kind_waits_for_its_turn() {
        let (mut first, inbox) = beside();
        let mut second: Beside<u32, u32> =
            Beside { patience: Some(Duration::from_millis(20)), ..Beside::new(Arc::clone(&first.turn), inbox.clone()) };
        let (end, work) = held(7);
        assert_eq!(first.ask(1, work), None);
        assert_eq!(second.ask(1, || 8), None, "the first work has the turn");
        drop(end);
        wait_for_end(&inbox);
    }
}
