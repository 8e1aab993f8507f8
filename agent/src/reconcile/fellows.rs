//! What a node does with others: it joins, follows what they accepted, and is told when something moves.

use std::path::Path;

use towpath_coordination::{
    Accepted,
    accept::{self, AcceptError, Table},
    fleet::{Joined, Poke},
    gossip::Wanted,
};
use towpath_host::journal::{Acceptance, Changes};

use super::{
    conditions::{Input, Trouble},
    follow::Unfollowed,
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

    /// Follows what others have accepted, where that is newer than what this node has.
    pub(super) fn adopt(&mut self) {
        if !self.store.shared() {
            return;
        }
        let disk = self.accepted();
        let before = self.fleet.known();
        let current = match accept::current(self.store.as_ref()) {
            Ok((current, revision)) => {
                self.fleet.seen(before, revision);
                current.unwrap_or_default()
            }
            Err(error) => return self.store_failed(&error),
        };
        self.step(Input::Own("store", None));
        if self.fleet.owes() {
            // What this node had written is written anew: nothing that went by it is settled.
            self.unsettle();
            self.told_others = None;
        }
        let (current, table) = match self.newer_of_peers(current.generation.max(disk.generation)) {
            Some((current, table)) => (current, Some(table)),
            None => (current, None),
        };
        let newer = current.generation > disk.generation;
        let told_by_peers = table.is_some();
        let mut unfollowed = if newer { self.take_over(&disk, &current, table).err() } else { None };
        if let (true, Some(Unfollowed::Poisoned(why))) = (told_by_peers, &unfollowed) {
            // The data store does not have it: it takes no number from this node.
            tracing::warn!(
                generation = current.generation,
                by = current.by,
                "nodes tell of an acceptance that this one must not follow: {why}"
            );
            unfollowed = None;
        }
        let what = |why: &str| format!("generation {} was accepted by {}: {why}", current.generation, current.by);
        let (behind, poisoned) = match &unfollowed {
            None => (None, None),
            Some(Unfollowed::Behind(why)) => (Some(Trouble::new("Progressing", what(why))), None),
            Some(Unfollowed::Refused(why)) => {
                (Some(Trouble::new("Refused", format!("{why}; until then this node accepts nothing"))), None)
            }
            Some(Unfollowed::Poisoned(why)) => {
                let what = what(why);
                let stays = "this node stays at its last good revision, and goes on from there with the next commit";
                (None, Some(Trouble::new("Unverified", format!("{what}; {stays}"))))
            }
        };
        self.unfollowed = unfollowed.map(|why| (current.generation, why));
        self.step(Input::Own("accepted", behind));
        self.step(Input::Poisoned(poisoned));
    }

    /// An acceptance that other nodes have and the data store does not: it has gone back, or hides it.
    fn newer_of_peers(&self, known: u64) -> Option<(Accepted, Table)> {
        let gossip = self.handle.shared.gossip.get()?;
        let told = gossip.announced();
        if told.generation <= known {
            return None;
        }
        let asked = gossip.ask(&told.by, |peers, node, address| {
            let (record, table) = peers.acceptance(node, address)?;
            Accepted::told(&record, &table, &told.digest).ok_or_else(|| "it goes by another one".into())
        });
        asked
            .inspect_err(|why| {
                tracing::warn!(
                    generation = told.generation,
                    "nodes tell of a generation that the data store does not have, and none shows it: {why}"
                )
            })
            .ok()
    }

    fn take_over(&mut self, disk: &Accepted, current: &Accepted, table: Option<Table>) -> Result<(), Unfollowed> {
        let behind = |why: String| Unfollowed::Behind(why);
        current.admits(&self.origin()).map_err(|error| Unfollowed::Refused(error.to_string()))?;
        let table = match table {
            Some(table) => table,
            None => accept::table_of(self.store.as_ref(), current)
                .map_err(|error| behind(error.to_string()))?
                .ok_or_else(|| behind("its table is not in the data store yet".into()))?,
        };
        let peers = |wanted: &Wanted, into: &Path| match self.handle.shared.gossip.get() {
            Some(gossip) => gossip.ask(&current.by, |peers, node, address| peers.pack(node, address, wanted, into)),
            None => Err("nodes do not speak to one another here (tls and listen.api)".into()),
        };
        let now = self.clock.wall();
        let looked = self.sources.follow(&self.journal, &disk.commits, &current.commits, now, &peers)?;
        let Some(set) = looked.set.clone() else {
            // A newer agent may understand what this one does not.
            let first = looked.problems.first().map(ToString::to_string).unwrap_or_default();
            return Err(behind(format!("it can't be loaded here: {first}")));
        };
        tracing::info!(generation = current.generation, by = current.by, "another node has accepted a revision");
        self.step(Input::Accepted(Acceptance {
            generation: current.generation,
            commits: current.commits.clone(),
            at: self.state.looked,
        }));
        let mut changes = Changes::default();
        changes.put("accepted", current);
        changes.put("table", &table);
        self.sources.remember(&looked, &current.commits, (&self.journal, self.clock.wall()), &mut changes);
        self.save(changes);
        let revision = Revision::new(current.clone(), table, set, &self.settings.node);
        self.show(Some(std::sync::Arc::new(revision)));
        Ok(())
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
            AcceptError::Store(_) | AcceptError::Unreadable(_) => (
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
