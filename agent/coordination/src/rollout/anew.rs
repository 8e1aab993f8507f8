//! The store has gone back: a backup was put in its place. What a node has on its own disk is newer than what it finds,
//! so it says anew what it holds; and nobody is let in anywhere until all have, or are written off.

use std::collections::BTreeSet;

use super::{
    Held, HeldBy, Kind, Restored, Spec, View, Vote,
    decide::{bytes, delete, own_held, replace},
};
use crate::{
    keys,
    store::{Compare, Op, Txn},
};

/// What a node knows of itself in a run, by its own disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Own {
    /// Whether it is half changed (a claim) or has failed, the run and the stretch in which.
    pub away: Option<(Kind, String, u32)>,
    /// The stretches of the run that it is through with.
    pub voted: BTreeSet<u32>,
}

/// Says that the store has gone back: the first transaction of who notices, unless somebody else has said so since.
/// `known` is the restoration that the node has heard of before.
pub fn announce(view: &View, me: &str, id: &str, known: Option<&str>) -> Option<Txn> {
    if view.restored.as_ref().is_some_and(|(restored, _)| Some(restored.id.as_str()) != known) {
        return None;
    }
    let put = Op::put(keys::restored(me), bytes(&Restored { id: id.to_owned(), by: String::new() }));
    Some(Txn { compare: view.same_restore(), then: vec![put], otherwise: Vec::new() })
}

/// The next thing of a run that the store lacks, or has wrongly; None where it is as the node knows it.
pub fn anew(spec: &Spec, view: &View, me: &str, own: &Own) -> Option<Txn> {
    let vote = own.voted.iter().find(|stretch| !view.voted.contains(stretch)).map(|stretch| {
        let key = keys::vote(&spec.run, *stretch, spec.is_member(me), me);
        let vote = Vote { run: spec.run.clone(), stretch: *stretch, generation: spec.generation };
        Txn {
            compare: vec![Compare::Absent(key.clone())],
            then: vec![Op::put(key, bytes(&vote))],
            otherwise: Vec::new(),
        }
    });
    vote.or_else(|| held_anew(spec, view, me, own))
}

fn held_anew(spec: &Spec, view: &View, me: &str, own: &Own) -> Option<Txn> {
    let mine = view.mine(spec, me);
    let Some((kind, run, stretch)) = &own.away else {
        // Whatever is said of it there is over: it is here, and whole.
        let mut txn = delete(spec, mine?);
        txn.then.push(Op::Delete(keys::offer_notice(me, &spec.group)));
        return Some(txn);
    };
    let is = |wanted: Kind| mine.is_some_and(|mine| mine.held.kind == wanted);
    if is(*kind) && (is(Kind::Failure) || !crowded(spec, view, me, mine)) || is(Kind::WrittenOff) {
        return None;
    }
    let kind = if *kind == Kind::Claim && crowded(spec, view, me, mine) { Kind::WrittenOff } else { *kind };
    let held = Held { kind, run: run.clone(), stretch: *stretch, generation: spec.generation, lost: false, absent: 0 };
    let mut txn = match mine {
        Some(mine) => replace(spec, mine, &held),
        None => {
            let key = own_held(spec, me);
            Txn {
                compare: vec![Compare::Absent(key.clone())],
                then: vec![Op::put(key, bytes(&held))],
                otherwise: Vec::new(),
            }
        }
    };
    txn.compare.push(Compare::NoneNewer(keys::all_held(&spec.group), view.revision));
    Some(txn)
}

/// Whether others hold as many slots as there are: then who is half changed goes on only with a new one.
fn crowded(spec: &Spec, view: &View, me: &str, mine: Option<&HeldBy>) -> bool {
    let part = mine.map_or_else(|| spec.part(me), |mine| mine.part.as_str());
    let claims = |held: &&HeldBy| held.held.kind == Kind::Claim && held.node != me && held.part == part;
    spec.count.is_some_and(|count| view.held.iter().filter(claims).count() as u64 >= count)
}

/// Says that this node has said anew all that it holds, in all books.
pub fn confirm(view: &View, me: &str) -> Option<Txn> {
    let (restored, _) = view.restored.as_ref().filter(|_| !view.anew.contains(me))?;
    Some(Txn {
        compare: view.same_restore(),
        then: vec![Op::put(keys::anew(&restored.id, me), b"{}".to_vec())],
        otherwise: Vec::new(),
    })
}
