//! Replaces the filters `selectattr` and `rejectattr` of the engine. The replacing filters do not add the taint of the
//! tested attribute to the result.

use minijinja::{
    Environment, Error, State,
    value::{Rest, Value, ValueOrKwargs},
};

use crate::template::trace;

/// The names of the replaced filters, `selectattr` and `rejectattr`, each with a new name for the filter of the engine.
const OWN: [(&str, &str); 2] =
    [("selectattr", "selectattr (of the engine)"), ("rejectattr", "rejectattr (of the engine)")];

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter(OWN[0].1, minijinja::filters::selectattr);
    environment.add_filter(OWN[1].1, minijinja::filters::rejectattr);
    for (name, own) in OWN {
        environment.add_filter(name, move |state: &mut State<'_, '_>, list: Value, test: Rest<ValueOrKwargs>| {
            select(state, own, list, test)
        });
    }
}

fn select(state: &mut State<'_, '_>, own: &str, list: Value, test: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    // The list is read outside of the trace below, so that its own taint is recorded.
    let members = if list.is_undefined() { list } else { list.try_iter()?.collect::<Vec<Value>>().into() };
    let arguments: Vec<Value> = std::iter::once(members).chain(test.into_values()).collect();
    let (selected, read) = trace::traced(|| state.apply_filter(own, &arguments));
    if selected.is_err() {
        // The error message may contain the value of an attribute, so the taints of the attributes are recorded.
        trace::record(&read);
    }
    selected
}
