//! Checks the depth and the size of the values that `set` assigns in a template.

use std::{
    cell::RefCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use minijinja::{
    Environment, Error, State,
    tests::is_sameas,
    value::{DynObject, Enumerator, Object, ObjectRepr, Tuple, Value},
};

use super::{
    filters::metered::{charge, wrong},
    guard,
    settings::OUTPUT,
    tainted::DEPTH,
};

/// The number of visited list or map members that cost one unit of fuel. Fuel is the engine's measure of work. The
/// check of one member takes less time than one instruction of the engine.
const MEMBERS: usize = 16;

/// The maximum number of members of an assigned value, counted on all levels of nesting. A value with more members than
/// this maximum takes more memory than the output of a template may have.
const MOST: usize = OUTPUT / size_of::<Value>();

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_test(guard::COMPUTED, |state: &State<'_, '_>, value: Value, attribute: bool| {
        let mut check = Check { state, attribute, only_find: true, found: false, loose: false, size: 0, unpaid: 0 };
        check.value(value, 0)?;
        check.pay(1)?;
        Ok::<bool, Error>(check.found)
    });
    environment.add_filter(guard::PLAIN, |state: &State<'_, '_>, value: Value, attribute: bool| {
        let mut check = Check { state, attribute, only_find: false, found: false, loose: false, size: 0, unpaid: 0 };
        let checked = check.value(value, 0)?;
        check.pay(1)?;
        Ok::<Value, Error>(checked.value)
    });
}

/// The result of the check of an assigned value.
struct Checked {
    value: Value,
    /// True if `value` is a copy of the assigned value, false if `value` is the assigned value itself.
    copied: bool,
    /// The number of nested levels of lists and maps in the value.
    height: usize,
}

impl Checked {
    fn same(value: Value) -> Self {
        Self { value, copied: false, height: 0 }
    }
}

/// The check of an assigned value, which rejects a value that is nested too deep. Without the check, a loop could nest
/// a value without end: each iteration assigns a list that contains the previous value. The engine overflows its stack
/// when it reads or drops a value that is nested too deep.
struct Check<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    /// True if the value is assigned to an attribute of a `namespace`.
    attribute: bool,
    /// True if the check copies nothing, and only records in `found` if a copy is necessary.
    only_find: bool,
    /// True if a part of the value must be copied.
    found: bool,
    /// True if the value contains a `namespace`, a `loop` or an imported module.
    loose: bool,
    /// The number of members that the check has visited, on all levels.
    size: usize,
    /// The number of visited members that the check has not charged yet.
    unpaid: usize,
}

impl Check<'_, '_, '_> {
    fn visit(&mut self, members: usize) -> Result<(), Error> {
        self.size = self.size.saturating_add(members);
        if self.size > MOST {
            return Err(wrong(format!("`set` assigns a value with more than {MOST} members")));
        }
        self.work(members)
    }

    fn work(&mut self, members: usize) -> Result<(), Error> {
        self.unpaid = self.unpaid.saturating_add(members);
        self.pay(MEMBERS)
    }

    /// Records that the value contains a `namespace`, a `loop` or an imported module. The check does not visit the
    /// members of a `namespace`, because a `namespace` may contain itself.
    fn loose(&mut self) -> Result<(), Error> {
        self.loose = true;
        if self.attribute {
            return Err(wrong(
                "cannot assign a namespace, a loop or a module to an attribute of a namespace: it could contain itself",
            ));
        }
        Ok(())
    }

    /// Charges the fuel for the visited members, if at least `least` members are not yet charged.
    fn pay(&mut self, least: usize) -> Result<(), Error> {
        if self.unpaid < least {
            return Ok(());
        }
        let members = std::mem::take(&mut self.unpaid);
        self.state.consume_fuel(u64::try_from(members.div_ceil(MEMBERS)).unwrap_or(u64::MAX))
    }

    /// Checks a value. The check copies lists and maps that the engine computes only when a template reads a member. A
    /// list that the engine has not computed can keep values in memory that are not members of the list, such as `x` in
    /// `[x][1:]`.
    fn value(&mut self, value: Value, depth: usize) -> Result<Checked, Error> {
        self.visit(1)?;
        let Some(object) = value.as_object() else { return Ok(Checked::same(value)) };
        if let Some(list) = object.downcast_ref::<Copied>() {
            // A value may contain the same list many times. The list counts each time, because the engine visits it
            // each time.
            self.visit(list.size)?;
            if list.loose {
                self.loose()?;
            }
            let height = list.height;
            return if depth + height > DEPTH { Err(too_deep()) } else { Ok(Checked { value, copied: false, height }) };
        }
        // Objects of this crate are data with a limited depth. These objects are not visited, because a visit would
        // record reads.
        if object.type_name().starts_with(env!("CARGO_CRATE_NAME")) {
            return Ok(Checked::same(value));
        }
        if depth == DEPTH {
            return Err(too_deep());
        }
        match object.repr() {
            ObjectRepr::Seq | ObjectRepr::Iterable => {
                let object = object.clone();
                self.list(value, &object, depth)
            }
            ObjectRepr::Map if is_map(object) => {
                let computed = !is_plain_map(object);
                self.map(value, computed, depth)
            }
            ObjectRepr::Map if !object.type_name().ends_with("::Macro") => {
                self.loose()?;
                Ok(Checked::same(value))
            }
            _ => Ok(Checked::same(value)),
        }
    }

    fn list(&mut self, value: Value, object: &DynObject, depth: usize) -> Result<Checked, Error> {
        let computed = is_computed_list(object);
        if computed && self.only_find {
            self.found = true;
            return Ok(Checked::same(value));
        }
        let before = self.size;
        let known = if computed { Recent::start_of(&value).filter(|known| !known.loose) } else { None };
        let mut copy = computed.then(Members::default);
        let mut height = 0;
        for (index, member) in value.try_iter()?.enumerate() {
            let same = known
                .as_ref()
                .and_then(|known| known.members.list.get(index))
                .is_some_and(|known| is_same(known, &member));
            let member = if same {
                self.work(1)?;
                Checked::same(member)
            } else {
                self.value(member, depth + 1)?
            };
            if self.found {
                return Ok(Checked::same(value));
            }
            height = height.max(member.height);
            if member.copied && copy.is_none() {
                let mut members = Members::default();
                for earlier in value.try_iter()?.take(index) {
                    members.push(earlier)?;
                }
                copy = Some(members);
            }
            if let Some(members) = &mut copy {
                members.push(member.value)?;
            }
        }
        if let Some(known) = &known {
            // The members that both lists share are already checked, and are not visited again.
            height = height.max(known.height - 1);
            self.size = self.size.saturating_add(known.size);
            self.visit(0)?;
            if depth + 1 + height > DEPTH {
                return Err(too_deep());
            }
        }
        let height = height + 1;
        let Some(mut members) = copy else { return Ok(Checked { value, copied: false, height }) };
        if value.is_tuple() {
            charge(self.state, members.list.len().saturating_mul(ENTRY))?;
            let value = Value::from(Tuple::from(std::mem::take(&mut members.list)));
            return Ok(Checked { value, copied: true, height });
        }
        let (size, group) = (self.size - before, object.type_name().ends_with("::GroupTuple"));
        let list = Arc::new(Copied { members, height, size, loose: self.loose, group });
        Recent::add(&list);
        let value = Value::from_dyn_object(list);
        Ok(Checked { value, copied: true, height })
    }

    fn map(&mut self, value: Value, computed: bool, depth: usize) -> Result<Checked, Error> {
        let Some(pairs) = value.as_object().and_then(|object| object.try_iter_pairs()) else {
            return Ok(Checked::same(value));
        };
        if computed && self.only_find {
            self.found = true;
            return Ok(Checked::same(value));
        }
        let mut copied = computed;
        let mut height = 0;
        let mut members = Vec::new();
        for (key, member) in pairs {
            let (key, member) = (self.value(key, depth + 1)?, self.value(member, depth + 1)?);
            if self.found {
                return Ok(Checked::same(value));
            }
            height = height.max(key.height).max(member.height);
            copied |= key.copied || member.copied;
            members.push((key.value, member.value));
        }
        let height = height + 1;
        if copied {
            charge(self.state, members.len().saturating_mul(ENTRY))?;
        }
        Ok(Checked { value: if copied { Value::from_pairs(members) } else { value }, copied, height })
    }
}

fn too_deep() -> Error {
    wrong(format!("`set` assigns a value that is nested more than {DEPTH} levels deep"))
}

/// Returns true if a list may keep values in memory that are not members of the list, such as `x` in `[x][1:]`.
fn is_computed_list(object: &DynObject) -> bool {
    object.repr() == ObjectRepr::Iterable || object.type_name().ends_with("::MergeSeq")
}

/// Returns true if a map contains data, and false for a `namespace`, a `loop`, an imported module or a macro.
fn is_map(object: &DynObject) -> bool {
    is_plain_map(object) || ["::MergeDict", "::KwargsValues"].iter().any(|name| object.type_name().ends_with(name))
}

/// Returns true if a map keeps only its members in memory, and no other values.
fn is_plain_map(object: &DynObject) -> bool {
    object.type_name().contains("::IndexMap<") || object.type_name().contains("::BTreeMap<")
}

/// The cost of one entry of a copied map or tuple, in bytes.
const ENTRY: usize = 64;

/// The copy of an assigned list. A loop that appends to a list copies the list each time, and drops the previous copy.
/// The copy of a list costs no fuel, but the memory of all copies is limited.
#[derive(Debug)]
struct Copied {
    members: Members,
    /// The number of nested levels of lists and maps in the list, including the list itself.
    height: usize,
    /// The number of members on all levels of the list.
    size: usize,
    /// True if the list contains a `namespace`, a `loop` or an imported module.
    loose: bool,
    /// True if the list is a group of the filter `groupby`. The two members of a group also have the names `grouper`
    /// and `list`.
    group: bool,
}

impl Object for Copied {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = match key.as_str() {
            Some("grouper") if self.group => 0,
            Some("list") if self.group => 1,
            _ => key.as_usize()?,
        };
        self.members.list.get(index).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.members.list.len())
    }
}

/// The copies of lists that the check has made most recently. If a loop appends to a list, the check uses the previous
/// copy, and checks only the new members.
struct Recent;

/// The maximum number of recent copies of lists in [`Recent`].
const RECENT: usize = 8;

impl Recent {
    fn add(list: &Arc<Copied>) {
        LAST.with_borrow_mut(|last| {
            last.truncate(RECENT - 1);
            last.insert(0, Arc::downgrade(list));
        });
    }

    /// Finds an earlier copy that is probably the start of a list: a recent copy with the same first member, and not
    /// more members. The caller checks only the members that the earlier copy does not contain.
    fn start_of(value: &Value) -> Option<Arc<Copied>> {
        let first = value.try_iter().ok()?.next()?;
        let length = value.len()?;
        LAST.with_borrow(|last| {
            let mut lists = last.iter().filter_map(Weak::upgrade);
            lists.find(|list| {
                list.members.list.len() <= length
                    && list.members.list.first().is_some_and(|known| is_same(known, &first))
            })
        })
    }
}

/// Returns true if two values are the same list or map in memory.
fn is_same(a: &Value, b: &Value) -> bool {
    a.as_object().is_some() && b.as_object().is_some() && is_sameas(a, b)
}

thread_local! {
    static LAST: RefCell<Vec<Weak<Copied>>> = const { RefCell::new(Vec::new()) };

    /// The size of all copied lists of this thread that still exist, in bytes.
    static HELD: Arc<AtomicUsize> = Arc::default();
}

/// The members of a copied list. Until the list is dropped, the size of the list counts against the memory limit.
#[derive(Debug)]
struct Members {
    list: Vec<Value>,
    counted: usize,
    held: Arc<AtomicUsize>,
}

impl Default for Members {
    fn default() -> Self {
        Self { list: Vec::new(), counted: 0, held: HELD.with(Arc::clone) }
    }
}

impl Members {
    fn push(&mut self, member: Value) -> Result<(), Error> {
        if self.list.len() == self.list.capacity() {
            let more = self.list.len().max(4);
            let bytes = more.saturating_mul(size_of::<Value>());
            let held = self.held.fetch_add(bytes, Ordering::Relaxed);
            self.counted += bytes;
            if held.saturating_add(bytes) > OUTPUT {
                return Err(wrong(format!("`set` assigns lists with more than {} MiB together", OUTPUT >> 20)));
            }
            self.list.reserve_exact(more);
        }
        self.list.push(member);
        Ok(())
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.held.fetch_sub(self.counted, Ordering::Relaxed);
    }
}
