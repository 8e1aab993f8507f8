//! The state machine of a book run, which gives commands to the executor and accepts its answers.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::{
    channel::Channel,
    context::{ActiveSegment, BookInputs, Run},
    rollout,
};
use crate::{
    command::{CommandId, Next, Observation},
    outcome::BookReport,
};

/// One run of a book, as a state machine without I/O.
pub struct BookRun {
    channel: Rc<Channel>,
    future: Option<Pin<Box<dyn Future<Output = BookReport>>>>,
    report: BookReport,
}

impl std::fmt::Debug for BookRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BookRun").field("open", &self.channel.open.borrow().len()).finish_non_exhaustive()
    }
}

impl BookRun {
    /// Creates a run from its inputs.
    pub fn new(inputs: BookInputs) -> Self {
        let channel = Rc::<Channel>::default();
        let run = Run {
            channel: Rc::clone(&channel),
            segment: RefCell::new(ActiveSegment::new(inputs.mode)),
            record: RefCell::new(inputs.record.clone()),
            inputs,
        };
        let future = Box::pin(async move { rollout::book(&run).await });
        Self { channel, future: Some(future), report: BookReport::default() }
    }

    /// Returns the next step of the run. Each command is returned once.
    pub fn advance(&mut self) -> Next {
        let Some(future) = &mut self.future else { return Next::Finished(self.report.clone()) };
        loop {
            self.channel.progress.set(false);
            if let Poll::Ready(report) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                self.report.clone_from(&report);
                self.future = None;
                return Next::Finished(report);
            }
            let new = std::mem::take(&mut *self.channel.new.borrow_mut());
            if !new.is_empty() {
                return Next::Do(new);
            }
            if !self.channel.progress.get() {
                return Next::Wait;
            }
        }
    }

    /// Accepts the executor's answer to a command. The run ignores an answer to a command that the run has not given.
    pub fn observe(&mut self, id: CommandId, seen: Observation) {
        if let Some(open) = self.channel.open.borrow_mut().get_mut(&id) {
            *open = Some(seen);
        }
    }

    /// Returns true while several tasks of the run are in progress. While several tasks are in progress, the executor
    /// should carry out the commands of these tasks at the same time.
    pub fn is_side_by_side(&self) -> bool {
        self.channel.side_by_side.get()
    }

    /// Asks the run to end before its next task.
    pub fn preempt(&mut self) {
        self.channel.preempted.set(true);
    }
}
