//! A store that has gone back: this node says so, and says anew what it holds.

use super::{Fleet, TRIES};
use crate::{
    keys,
    rollout::{Own, Spec, View, anew, announce, confirm},
    store::StoreError,
};

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

    /// Says that this node has said anew all that it holds.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn has_said_anew(&self) -> Result<(), StoreError> {
        // No book is meant: only what is of the whole fleet is read.
        let none = Spec { book: "none/none".into(), group: "none/none".into(), waves: 1, ..Spec::default() };
        let mut view = self.look(&none)?;
        for _ in 0..TRIES {
            view = self.announced(&none, view)?;
            self.notice_anew(&mut view)?;
            match confirm(&view, &self.node) {
                Some(txn) => view = self.commit(&none, txn)?,
                None => {
                    self.horizon.settled();
                    return Ok(());
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
        match announce(&view, &id, self.horizon.restoration().as_deref()) {
            Some(txn) => self.commit(spec, txn),
            None => Ok(view),
        }
    }

    pub(super) fn notice_anew(&self, view: &mut View) -> Result<(), StoreError> {
        if let Some((restored, _)) = &view.restored {
            view.anew = self.names(&keys::all_anew(&restored.id))?;
        }
        Ok(())
    }
}
