//! Adjacent effects that are better carried out as one: packages, in one transaction.

use std::time::Duration;

use towpath_host::journal::{Changes, Phase};
use towpath_modules::{Context, Options};

use super::{
    book::{BookRun, module},
    effects::Effect,
    instance,
    outcome::{Outcome, TaskOutcome},
};

/// With less time than this nothing is begun again.
const LEAST: Duration = Duration::from_secs(10);

impl BookRun<'_, '_> {
    /// Carries out the effects that wait for one another.
    pub(super) fn flush_together(&mut self) {
        let mut effects = std::mem::take(&mut self.together);
        if effects.is_empty() {
            return;
        }
        if let Err(why) = self.begin_stretch() {
            self.complete = false;
            self.stopped = true;
            for effect in effects.iter().filter_map(|effect| Some((effect.place?, &effect.task.id))) {
                self.tasks[effect.0].outcome = why.outcome();
                self.tasks[effect.0].message = Some(why.message());
                self.unmet.insert(effect.1.clone());
            }
            return;
        }
        let mut before = Changes::default();
        for effect in &mut effects {
            before.append(self.foresee(effect));
        }
        if let Err(error) = self.intend_with(Phase::Action, None, before) {
            return effects.into_iter().for_each(|effect| self.not_done(effect, error.message.clone()));
        }
        if effects.len() == 1 {
            return effects.into_iter().for_each(|effect| self.carry_out(effect, None));
        }
        self.as_one(effects);
    }

    /// Several effects as one; where that does not go well, one by one within the time that is left.
    fn as_one(&mut self, effects: Vec<Effect>) {
        let (machine, begun) = (self.pass.machine, self.pass.machine.clock.monotonic());
        let time: Duration = effects.iter().map(|effect| effect.task.timeout).sum();
        let done = {
            let book = self.book.id();
            let begin = |effect: &Effect| machine.memory.progress.begin(&book, &effect.task.id, begun);
            let _work: Vec<_> = effects.iter().map(begin).collect();
            let context = instance::context(machine, &self.renderer, &effects[0].task, self.pass.cancel);
            let uses: Vec<&Options> = effects.iter().map(|effect| &effect.ready.options).collect();
            Options::together(&uses, &Context { timeout: time, ..context })
        };
        if let Err(error) = &done {
            tracing::info!(book = self.book.id(), "adjacent tasks are carried out one by one: {error}");
        }
        let mut never = Vec::new();
        for effect in effects {
            let left = time.saturating_sub(begun.elapsed());
            match &done {
                Ok(()) => {
                    let outcome = TaskOutcome::new(effect.name.clone(), module(&effect.task), Outcome::Changed);
                    self.done(effect, outcome, None);
                }
                // What comes behind a task that has failed does not run.
                Err(_) if self.stopped => never.extend(effect.place),
                Err(error) if left < LEAST => self.not_done(effect, error.message.clone()),
                Err(_) => {
                    let time = effect.task.timeout.min(left);
                    self.carry_out(effect, Some(time));
                }
            }
        }
        for place in never.into_iter().rev() {
            self.tasks.remove(place);
        }
    }
}
