//! Counts the objects and the unpacked bytes of a pack while `gix` reads the pack.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use gix::progress::{Count, Id, MessageLevel, NestedProgress, Progress, Step, StepShared, Unit};

/// The progress id with which `gix` reports the number of unpacked bytes of a pack.
const INFLATED: Id = *b"IWDB";
/// The progress id with which `gix` reports the number of objects that a pack announces.
const OBJECTS: Id = *b"IWIO";

/// The counters of one fetch. All parts of a fetch share the same counters.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    id: Id,
    steps: StepShared,
    inflated: StepShared,
    too_many: Arc<AtomicBool>,
    objects: u64,
    bytes: u64,
}

impl Meter {
    /// Creates counters with a limit for the number of objects and a limit for unpacked bytes.
    pub(crate) fn new(objects: u64, bytes: u64) -> Self {
        let counter = || Arc::new(AtomicUsize::new(0));
        Self { id: [0; 4], steps: counter(), inflated: counter(), too_many: Arc::default(), objects, bytes }
    }

    /// Returns a text that names the exceeded limit; `None` if no limit is exceeded.
    pub(crate) fn exceeded(&self) -> Option<String> {
        if self.too_many.load(Ordering::Relaxed) {
            return Some(format!("{} objects at once", self.objects));
        }
        (self.inflated.load(Ordering::Relaxed) as u64 > self.bytes)
            .then(|| format!("{} MiB of unpacked objects at once", self.bytes >> 20))
    }
}

impl Count for Meter {
    fn set(&self, step: Step) {
        self.steps.store(step, Ordering::Relaxed);
    }

    fn step(&self) -> Step {
        self.steps.load(Ordering::Relaxed)
    }

    fn inc_by(&self, step: Step) {
        self.counter().fetch_add(step, Ordering::Relaxed);
    }

    fn counter(&self) -> StepShared {
        Arc::clone(if self.id == INFLATED { &self.inflated } else { &self.steps })
    }
}

impl Progress for Meter {
    fn init(&mut self, max: Option<Step>, _: Option<Unit>) {
        if self.id == OBJECTS && max.is_some_and(|max| max as u64 > self.objects) {
            self.too_many.store(true, Ordering::Relaxed);
        }
    }

    fn set_name(&mut self, _: String) {}

    fn name(&self) -> Option<String> {
        None
    }

    fn id(&self) -> Id {
        self.id
    }

    fn message(&self, _: MessageLevel, _: String) {}
}

impl NestedProgress for Meter {
    type SubProgress = Self;

    fn add_child(&mut self, name: impl Into<String>) -> Self {
        self.add_child_with_id(name, [0; 4])
    }

    fn add_child_with_id(&mut self, _: impl Into<String>, id: Id) -> Self {
        Self { id, steps: Arc::new(AtomicUsize::new(0)), ..self.clone() }
    }
}
