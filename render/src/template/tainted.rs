//! Follows tainted values through a template, and computes the taint of the template's output.
//!
//! A string or number inside the template engine cannot carry a taint. If a template reads a tainted part of a list or
//! map, the whole output of the template is therefore tainted. If a template outputs a list or map unchanged, each part
//! keeps its taint.

use std::{collections::BTreeMap, fmt, sync::Arc};

use minijinja::value::{Enumerator, Object, ObjectRepr, Serde, Value};
use serde_json::Value as Json;

use super::{settings::OUTPUT, trace};
use crate::{
    document::Step,
    taint::{Marks, Taint, Tainted},
};

/// A value in a template, with its taint. If a template reads the value, the output of the template has the taint.
#[derive(Clone)]
pub(crate) struct Slot {
    value: Value,
    taint: Taint,
}

impl Slot {
    /// Creates a template value without a taint.
    pub(crate) fn clean(value: Value) -> Self {
        Self { value, taint: Taint::NONE }
    }

    /// Creates a template value from a tainted JSON value.
    pub(crate) fn new(tainted: &Tainted<Json>) -> Self {
        wrap(tainted.value(), tainted.marks())
    }

    /// Returns the value, and records that the template has read the taint of the value.
    pub(crate) fn read(&self) -> Value {
        trace::record(&self.taint);
        self.value.clone()
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

fn wrap(value: &Json, marks: &Marks) -> Slot {
    if marks.is_clean() {
        return Slot::clean(Value::from(Serde(value)));
    }
    let shape = match marks {
        Marks::Clean => Taint::NONE,
        Marks::Whole(taint) => taint.clone(),
        Marks::Parts { shape, .. } => shape.clone(),
    };
    match value {
        // A missing value has no taint, because no other node chose it.
        Json::Null => Slot::clean(Value::from(())),
        Json::Array(members) => {
            let wrapped = |(index, member): (usize, &Json)| wrap(member, &marks.member(&Step::Index(index)));
            let members = members.iter().enumerate().map(wrapped).collect();
            Slot::clean(Value::from_object(TaintedList { members, shape }))
        }
        Json::Object(members) => {
            let wrapped = members.iter().map(|(key, member)| (Arc::from(key.as_str()), wrap(member, &marks.key(key))));
            let entries: Vec<(Arc<str>, Slot)> = wrapped.collect();
            let positions = entries.iter().enumerate().map(|(at, (key, _))| (Arc::clone(key), at)).collect();
            Slot::clean(Value::from_object(TaintedMap { entries, positions, shape }))
        }
        leaf => Slot { value: Value::from(Serde(leaf)), taint: marks.taint() },
    }
}

/// A map with tainted parts, with its entries in the written order.
struct TaintedMap {
    entries: Vec<(Arc<str>, Slot)>,
    positions: BTreeMap<Arc<str>, usize>,
    shape: Taint,
}

impl fmt::Debug for TaintedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<tainted map>")
    }
}

impl Object for TaintedMap {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let (_, slot) = self.entries.get(*self.positions.get(key)?)?;
        Some(slot.read())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        trace::record(&self.shape);
        Enumerator::Values(self.entries.iter().map(|(key, _)| Value::from(Arc::clone(key))).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        trace::record(&self.shape);
        Some(self.entries.len())
    }

    /// Returns true if the map has entries. A check whether a map has entries does not taint the output, as in `nodes()
    /// | selectattr('facts')`.
    fn is_true(self: &Arc<Self>) -> bool {
        !self.entries.is_empty()
    }
}

/// A list with tainted members.
struct TaintedList {
    members: Vec<Slot>,
    shape: Taint,
}

impl fmt::Debug for TaintedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<tainted list>")
    }
}

impl Object for TaintedList {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.members.get(key.as_usize()?).map(Slot::read)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        trace::record(&self.shape);
        Enumerator::Seq(self.members.len())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        trace::record(&self.shape);
        Some(self.members.len())
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.members.is_empty()
    }
}

/// The maximum depth of nested lists and maps in a value. The limit protects the stack, because the conversion of
/// values is recursive.
pub(super) const DEPTH: usize = 128;

/// The number of bytes that each value adds to the size of all texts.
const VALUE_COST: usize = 32;

/// Converts the value of an expression to JSON. A part that the expression returns unchanged keeps its taint. A part
/// that the expression computes gets all taints that the expression has read.
///
/// # Errors
/// Returns an error if the value is too large, is nested too deep, or cannot be converted to JSON.
pub(super) fn extract(value: &Value) -> Result<Tainted<Json>, String> {
    let mut extraction = Extraction { left: OUTPUT };
    let (json, draft) = extraction.value(value, 0)?;
    Ok(Tainted::new(json, draft.resolve(&trace::so_far())))
}

/// The size and the depth of a value with all its parts.
pub(super) struct Weight {
    /// The number of bytes of all texts, plus a constant for each value.
    pub(super) bytes: usize,
    /// The number of nested levels of lists and maps.
    pub(super) height: usize,
}

impl Weight {
    /// Returns the number of spaces that indent the value if each part of the value is on a separate line.
    pub(super) fn indented(&self, width: usize) -> usize {
        (self.bytes / VALUE_COST).saturating_mul(width).saturating_mul(self.height)
    }
}

/// Returns the size and the depth of a value.
///
/// # Errors
/// Returns an error if the value is larger than the output limit of a template, or is nested too deep.
pub(super) fn weight(value: &Value) -> Result<Weight, String> {
    let mut left = OUTPUT;
    let height = weigh(value, 0, &mut left)?;
    Ok(Weight { bytes: OUTPUT - left, height })
}

fn weigh(value: &Value, depth: usize, left: &mut usize) -> Result<usize, String> {
    let own = VALUE_COST + value.as_str().map_or(0, str::len) + value.as_bytes().map_or(0, <[u8]>::len);
    *left = left.checked_sub(own).ok_or_else(too_large)?;
    let Some(object) = value.as_object() else { return Ok(0) };
    if depth == DEPTH {
        return Err(format!("the value is nested more than {DEPTH} deep"));
    }
    let mut height = 0;
    if let Some(members) = object.downcast_ref::<Vec<Value>>() {
        for member in members {
            height = height.max(weigh(member, depth + 1, left)?);
        }
        return Ok(height + 1);
    }
    match object.repr() {
        ObjectRepr::Map => {
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let member = value.get_item(&key).map_err(|error| error.to_string())?;
                height = height.max(weigh(&key, depth + 1, left)?).max(weigh(&member, depth + 1, left)?);
            }
        }
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            for member in value.try_iter().map_err(|error| error.to_string())? {
                height = height.max(weigh(&member, depth + 1, left)?);
            }
        }
        _ => return Ok(0),
    }
    Ok(height + 1)
}

/// The preliminary taints of a part of a value, before the taints of the whole template are known.
enum Draft {
    /// The template computed the value, so the value gets all taints that the template has read.
    Made,
    /// The template returned the value unchanged, so the value keeps its taints.
    Kept(Marks),
    /// The template created a list or map, in which unchanged members keep their taints.
    Mixed(Vec<(Step, Draft)>),
}

impl Draft {
    fn resolve(self, read: &Taint) -> Marks {
        match self {
            Self::Made => Marks::whole(read.clone()),
            Self::Kept(marks) => marks,
            Self::Mixed(members) => {
                Marks::parts(read.clone(), members.into_iter().map(|(step, draft)| (step, draft.resolve(read))))
            }
        }
    }

    fn of_members(members: Vec<(Step, Self)>) -> Self {
        if members.iter().all(|(_, draft)| matches!(draft, Self::Made)) { Self::Made } else { Self::Mixed(members) }
    }
}

struct Extraction {
    left: usize,
}

impl Extraction {
    fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or_else(too_large)?;
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(Json, Draft), String> {
        self.spend(VALUE_COST)?;
        if let Some(text) = value.as_str() {
            self.spend(text.len())?;
            return Ok((Json::String(text.to_owned()), Draft::Made));
        }
        let Some(object) = value.as_object() else { return Ok((leaf(value)?, Draft::Made)) };
        if depth == DEPTH {
            return Err(format!("the value is nested more than {DEPTH} deep"));
        }
        if let Some(map) = value.downcast_object_ref::<TaintedMap>() {
            let mut json = serde_json::Map::new();
            let mut marks = Vec::new();
            for (key, slot) in &map.entries {
                self.spend(key.len())?;
                let (member, kept) = self.slot(slot, depth)?;
                json.insert(key.to_string(), member);
                marks.push((Step::Key(key.to_string().into()), kept));
            }
            return Ok((Json::Object(json), Draft::Kept(Marks::parts(map.shape.clone(), marks))));
        }
        if let Some(list) = value.downcast_object_ref::<TaintedList>() {
            let mut json = Vec::new();
            let mut marks = Vec::new();
            for (index, slot) in list.members.iter().enumerate() {
                let (member, kept) = self.slot(slot, depth)?;
                json.push(member);
                marks.push((Step::Index(index), kept));
            }
            return Ok((Json::Array(json), Draft::Kept(Marks::parts(list.shape.clone(), marks))));
        }
        match object.repr() {
            ObjectRepr::Map => self.map(value, depth),
            ObjectRepr::Seq | ObjectRepr::Iterable => self.list(value, depth),
            _ => Ok((leaf(value)?, Draft::Made)),
        }
    }

    /// Converts a member that the template returned unchanged. A part of the member gets no taint if the part had no
    /// taint before.
    fn slot(&mut self, slot: &Slot, depth: usize) -> Result<(Json, Marks), String> {
        let (json, draft) = self.value(&slot.value, depth + 1)?;
        Ok((
            json,
            match draft {
                Draft::Kept(marks) => marks,
                Draft::Made | Draft::Mixed(_) => Marks::whole(slot.taint.clone()),
            },
        ))
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(Json, Draft), String> {
        let mut json = serde_json::Map::new();
        let mut drafts = Vec::new();
        for key in value.try_iter().map_err(|error| error.to_string())? {
            let name = match key.as_str() {
                Some(name) => name.to_owned(),
                None => match leaf(&key)? {
                    Json::Number(number) => number.to_string(),
                    Json::Bool(bool) => bool.to_string(),
                    _ => return Err("a key of a map is neither text nor a number".into()),
                },
            };
            self.spend(name.len())?;
            let member = value.get_item(&key).map_err(|error| error.to_string())?;
            let (member, draft) = self.value(&member, depth + 1)?;
            drafts.push((Step::Key(name.as_str().into()), draft));
            json.insert(name, member);
        }
        Ok((Json::Object(json), Draft::of_members(drafts)))
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(Json, Draft), String> {
        let mut json = Vec::new();
        let mut drafts = Vec::new();
        for (index, member) in value.try_iter().map_err(|error| error.to_string())?.enumerate() {
            let (member, draft) = self.value(&member, depth + 1)?;
            drafts.push((Step::Index(index), draft));
            json.push(member);
        }
        Ok((Json::Array(json), Draft::of_members(drafts)))
    }
}

fn leaf(value: &Value) -> Result<Json, String> {
    serde_json::to_value(value).map_err(|error| error.to_string())
}

pub(super) fn too_large() -> String {
    format!("the output of a template is larger than {} MiB", OUTPUT >> 20)
}
