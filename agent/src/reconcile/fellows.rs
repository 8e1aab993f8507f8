//! What a node does with others: it joins, answers them, and is told when something moves.

use towpath_coordination::{
    accept::AcceptError,
    fleet::{Joined, Poke},
};

use super::{
    conditions::{Input, Trouble},
    node::Node,
    pass,
    revision::Revision,
    runs::Run,
};

impl Node {
    /// Joins the fleet, where there is one: with a shared store, or where several nodes live in this process.
    pub(super) fn join(&mut self) {
        let joined = Joined {
            node: self.settings.node.clone(),
            machine_id: super::facts::machine_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_keys: self.speech.keys().texts().to_vec(),
        };
        let queue = self.queue.clone();
        // The nodes of one process follow the sources themselves.
        let shared = self.store.shared();
        self.fleet.join(joined, move |poke| {
            queue.poke(|wake| match poke {
                Poke::Accepted => wake.accepted |= shared,
                Poke::Look => wake.check = true,
            });
        });
        let refused = self.fleet.refused();
        self.step(Input::Own("fleet", refused.map(|why| Trouble::new("Refused", why))));
    }

    /// Answers who has asked for the key of a result that this node can read.
    pub(super) fn answer(&self, revision: &Revision) {
        if !self.store.shared() || !self.fleet.is_asked() {
            return;
        }
        let spec_of = |id: &str| {
            let book = revision.set.books.values().find(|book| book.id() == id)?;
            Some(Run::of(&revision.set, revision.generation, &revision.table, book)?.spec)
        };
        if let Err(error) = self.fleet.answer(spec_of) {
            self.fleet.look_soon();
            tracing::warn!(%error, "who has asked for the key of a result can't be answered yet");
        }
    }

    /// Where the data store has gone back: says anew all that this node holds, before it asks for anything.
    pub(super) fn say_anew(&mut self, revision: &Revision) {
        if !self.fleet.owes() {
            return;
        }
        match pass::say_anew(&self.machine, &self.journal, &self.fleet, revision) {
            Ok(true) => tracing::info!("the data store had gone back, and this node has said anew what it holds"),
            Ok(false) => {}
            Err(error) => {
                self.fleet.look_soon();
                tracing::warn!(%error, "this node can't say anew yet what it holds");
            }
        }
    }

    /// Makes an event of each record that did not count: somebody signs what it may not, or writes to the store behind
    /// the fleet's back.
    pub(super) fn tell_refused(&self) {
        for (key, why) in self.speech.refused() {
            self.tell("record.refused", None, "Refused", format!("{key} in the data store does not count: {why}"));
        }
    }

    /// Says why nothing can be agreed on.
    pub(super) fn store_failed(&mut self, error: &AcceptError) {
        let (reason, rest) = match error {
            AcceptError::Store(_) | AcceptError::Unwritable(_) => (
                "StoreUnreachable",
                "drift of content is corrected on the accepted revision, what needs agreement is held until it answers",
            ),
            AcceptError::TooOld(_) | AcceptError::OtherOrigin { .. } | AcceptError::Weaker { .. } => {
                ("Refused", "until then this node accepts nothing, and its last good revision goes on")
            }
        };
        self.step(Input::Own("store", Some(Trouble::new(reason, format!("{error}; {rest}")))));
    }
}
