//! A store that has gone back: this node says so, and says anew what it holds.

use super::{Fleet, TRIES};
use crate::{
    keys,
    rollout::{Own, Spec, View, anew, announce, confirm, end_restoration},
    store::StoreError,
};

/// No book is meant: only what is of the whole fleet is read.
fn of_the_fleet(known: &[String]) -> Spec {
    let nobody = "none/none".to_owned();
    Spec { book: nobody.clone(), group: nobody, known: known.to_vec(), waves: 1, ..Spec::default() }
}

impl Fleet {
    /// Says anew what this node holds in a run, where the store lacks it or has something older.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn say_anew(&self, spec: &Spec, own: &Own) -> Result<(), StoreError> {
        let mut view = self.look(spec)?;
        for _ in 0..TRIES {
            view = self.announced(spec, view)?;
            let Some(txn) = anew(spec, &view, &self.node, own) else { return Ok(()) };
            view = self.commit(spec, txn)?;
        }
        Err(StoreError::Unreachable("others write too fast".into()))
    }

    /// Looks whether this node has to say anew what it holds: what has only been heard may not count.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn really_owes(&self) -> Result<bool, StoreError> {
        self.look(&of_the_fleet(&[]))?;
        Ok(self.owes())
    }

    /// Says that this node has said anew all that it holds. `known` are the nodes that git names.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn has_said_anew(&self, known: &[String]) -> Result<(), StoreError> {
        let none = of_the_fleet(known);
        let mut view = self.look(&none)?;
        for _ in 0..TRIES {
            view = self.announced(&none, view)?;
            self.notice_anew(&mut view)?;
            match confirm(&view, &self.node) {
                Some(txn) => view = self.commit(&none, txn)?,
                None => {
                    self.horizon.settled();
                    // Who is the last to say it ends the restoration.
                    return end_restoration(known, &view).map_or(Ok(()), |txn| self.write(&txn).map(drop));
                }
            }
        }
        Err(StoreError::Unreachable("others write too fast".into()))
    }

    /// Says that the store has gone back, where this node is the first to notice.
    pub(super) fn announced(&self, spec: &Spec, view: View) -> Result<View, StoreError> {
        if !view.fallen {
            return Ok(view);
        }
        let id = uuid::Uuid::new_v4().simple().to_string();
        let Some(txn) = announce(&view, &self.node, &id, self.horizon.restoration().as_deref()) else {
            return Ok(view);
        };
        let mut view = self.commit(spec, txn)?;
        if view.restored.is_none() {
            tracing::error!(
                "that the data store was restored can't be said: what this node writes does not count there"
            );
            self.horizon.announced();
            view.fallen = false;
        }
        Ok(view)
    }

    pub(super) fn notice_anew(&self, view: &mut View) -> Result<(), StoreError> {
        if let Some((restored, _)) = &view.restored {
            view.anew = self.names(&keys::all_anew(&restored.id))?;
        }
        Ok(())
    }
}
