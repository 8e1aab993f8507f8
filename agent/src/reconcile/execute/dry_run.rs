//! The executor of a plan. A dry run only reads the node, and runs no command (D25).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use towpath_reconcile::{
    BookInputs, Command, Observation, Outcome,
    command::{Answer, Applied, ElectionState, Executed, InstanceId, Invocation, Rebooted, Removal, Removed},
    plan::assess::{Check, Checked, RunMode},
    record::BookRecord,
};
use towpath_state::BookId;

use super::{CarryOut, Session, invoke, resource};
use crate::reconcile::pass::PassContext;

/// The executor of a plan, which reads the node and changes nothing.
pub(in crate::reconcile) struct DryRun<'a> {
    session: Session<'a>,
    /// True if a change was planned. A later probe may depend on a planned change.
    has_changes: AtomicBool,
}

impl DryRun<'_> {
    fn plan_change(&self) {
        self.has_changes.store(true, Ordering::Relaxed);
    }

    /// Compares the state of the node with a rendered task. The dry run skips a check that runs a command.
    fn check(&self, id: InstanceId) -> Checked {
        let asks = self.session.rendered(id).is_ok_and(|(rendered, _)| rendered.ready.options.asks_commands());
        if asks {
            let why = "the check of the task runs a command, and a plan runs no commands".to_owned();
            return Checked { check: Check::Unknown(why), last: None, shown: None };
        }
        resource::check(&self.session, id)
    }

    /// Runs a probe if the probe only shows a message, or if no change is planned before the probe.
    fn probe(&self, id: InstanceId) -> Executed {
        match self.session.rendered(id) {
            Ok((rendered, task)) => {
                let shows = rendered.ready.options.schema().shows_message;
                if self.has_changes.load(Ordering::Relaxed) && !shows {
                    return Executed::Planned;
                }
                invoke::probe(&self.session, task, &rendered).executed()
            }
            Err(message) => super::attempts::Attempted::failed(message).executed(),
        }
    }

    fn execute(&self, invocation: &Invocation) -> Executed {
        match invocation {
            Invocation::Probe(id) => self.probe(*id),
            _ => {
                self.plan_change();
                Executed::Planned
            }
        }
    }

    /// Checks whether a reboot is due. A plan does not reboot the node.
    fn reboot(&self, id: InstanceId, is_admitted: bool) -> Rebooted {
        if is_admitted {
            self.plan_change();
            return Rebooted::Due;
        }
        match invoke::reboot(&self.session, id, None) {
            Rebooted::Done => Rebooted::NotDue,
            state => state,
        }
    }
}

impl<'a> CarryOut<'a> for DryRun<'a> {
    const LACKING: Outcome = Outcome::Unknown;

    type Tools = ();

    fn of(session: Session<'a>, (): ()) -> Self {
        Self { session, has_changes: AtomicBool::new(false) }
    }

    fn session(&self) -> &Session<'a> {
        &self.session
    }

    fn inputs(&self) -> BookInputs {
        BookInputs {
            book: Arc::clone(&self.session.book),
            rollout: None,
            mode: if self.session.pass.fresh { RunMode::NewRevision } else { RunMode::Steady },
            drift: self.session.pass.drift,
            ends_at_failure: false,
            record: BookRecord::default(),
        }
    }

    fn out_of_service(_: &PassContext<'_>) -> BTreeSet<BookId> {
        BTreeSet::new()
    }

    fn forget_gone(_: &PassContext<'_>, _: &BookId) -> bool {
        true
    }

    fn carry_out(&self, command: &Command) -> Observation {
        let session = &self.session;
        match command {
            Command::Items(at) => Observation::Items(resource::items(session, *at)),
            Command::Render(instance) => {
                let rendered = resource::render(session, instance);
                if rendered.is_err() {
                    self.plan_change();
                }
                Observation::Rendered(rendered)
            }
            Command::Check(id) => {
                let checked = self.check(*id);
                // A task whose check has no result may change something.
                if matches!(checked.check, Check::Unknown(_)) {
                    self.plan_change();
                }
                Observation::Checked(checked)
            }
            Command::Apply(set, _) => {
                self.plan_change();
                Observation::Applied(set.instances().iter().map(|_| Applied::Planned).collect())
            }
            Command::Execute(invocation) => Observation::Executed(self.execute(invocation)),
            Command::Reboot(id, is_admitted) => Observation::Rebooted(self.reboot(*id, *is_admitted)),
            Command::Register(name, value) => {
                session.renderer.register(name, value);
                Observation::Done
            }
            Command::Remove(removal) => Observation::Removed(planned(removal)),
            Command::Admit(_) | Command::Coordinate(_) | Command::PublishResult(_) => Observation::Answered(Answer::Go),
            Command::Elect(..) => Observation::Election(ElectionState::Elected),
            Command::ListHandlers => Observation::Handlers(Vec::new()),
            Command::ListInventory(_) => Observation::Inventory(None),
            Command::Record(_) | Command::Persist(_) => Observation::Done,
        }
    }
}

fn planned(removal: &Removal) -> Vec<Removed> {
    let of = |item: &towpath_reconcile::names::Managed| Removed {
        item: item.clone(),
        outcome: Outcome::Unchanged,
        message: None,
    };
    removal.remove.iter().map(of).collect()
}
