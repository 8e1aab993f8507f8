//! Filters on lists and maps: `combine`, `dict2items`, `items2dict`, `union`, `intersect`, `difference`, `flatten` and
//! `zip`.

use minijinja::{
    Environment, Error, State,
    value::{Kwargs, Rest, Value, ValueKind},
};

use super::metered::{self, charge, wrong};

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "combine", combine);
    metered::add(environment, "dict2items", dict2items);
    metered::add(environment, "items2dict", items2dict);
    metered::add(environment, "union", |state: &State<'_, '_>, a: &Value, b: &Value| -> Result<Value, Error> {
        unique(state, list("union", a)?.into_iter().chain(list("union", b)?))
    });
    metered::add(environment, "intersect", |state: &State<'_, '_>, a: &Value, b: &Value| -> Result<Value, Error> {
        let (own, other) = (list("intersect", a)?, list("intersect", b)?);
        charge(state, COMPARISON.saturating_mul(own.len()).saturating_mul(other.len()))?;
        unique(state, own.into_iter().filter(|member| other.contains(member)))
    });
    metered::add(environment, "difference", |state: &State<'_, '_>, a: &Value, b: &Value| -> Result<Value, Error> {
        let (own, other) = (list("difference", a)?, list("difference", b)?);
        charge(state, COMPARISON.saturating_mul(own.len()).saturating_mul(other.len()))?;
        unique(state, own.into_iter().filter(|member| !other.contains(member)))
    });
    metered::add(environment, "flatten", |value: &Value, options: Kwargs| -> Result<Value, Error> {
        let levels = options.get::<Option<u32>>("levels")?;
        options.assert_all_used()?;
        let mut out = Vec::new();
        flatten(list("flatten", value)?, levels, &mut out);
        Ok(Value::from(out))
    });
    metered::add(environment, "zip", |first: &Value, others: Rest<Value>| -> Result<Value, Error> {
        let mut lists = vec![list("zip", first)?];
        for other in others.iter() {
            lists.push(list("zip", other)?);
        }
        let shortest = lists.iter().map(Vec::len).min().unwrap_or(0);
        let rows = (0..shortest).map(|row| lists.iter().map(|list| list[row].clone()).collect::<Vec<_>>());
        Ok(Value::from(rows.map(Value::from).collect::<Vec<_>>()))
    });
}

fn list(filter: &str, value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => Ok(value.try_iter()?.collect()),
        other => Err(wrong(format!("{filter} takes a list, not a {other}"))),
    }
}

/// The number of bytes for which a filter charges fuel when the filter compares two values.
const COMPARISON: usize = 8;

fn unique(state: &State<'_, '_>, members: impl Iterator<Item = Value>) -> Result<Value, Error> {
    let mut out: Vec<Value> = Vec::new();
    for member in members {
        charge(state, COMPARISON.saturating_mul(out.len()))?;
        if !out.contains(&member) {
            out.push(member);
        }
    }
    Ok(Value::from(out))
}

fn flatten(members: Vec<Value>, levels: Option<u32>, out: &mut Vec<Value>) {
    for member in members {
        match (member.kind(), levels) {
            (ValueKind::None, _) => {}
            (ValueKind::Seq, None | Some(1..)) => {
                let inner = member.try_iter().map(Iterator::collect).unwrap_or_default();
                flatten(inner, levels.map(|left| left - 1), out);
            }
            _ => out.push(member),
        }
    }
}

fn pairs(filter: &str, value: &Value) -> Result<Vec<(Value, Value)>, Error> {
    if value.kind() != ValueKind::Map {
        return Err(wrong(format!("{filter} takes a map, not a {}", value.kind())));
    }
    value.try_iter()?.map(|key| Ok((key.clone(), value.get_item(&key)?))).collect()
}

fn combine(state: &State<'_, '_>, first: &Value, others: Rest<Value>, options: Kwargs) -> Result<Value, Error> {
    let recursive = options.get::<Option<bool>>("recursive")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut result = pairs("combine", first)?;
    for other in others.iter() {
        merge(state, &mut result, pairs("combine", other)?, recursive)?;
    }
    Ok(Value::from_pairs(result))
}

fn merge(
    state: &State<'_, '_>,
    into: &mut Vec<(Value, Value)>,
    from: Vec<(Value, Value)>,
    recursive: bool,
) -> Result<(), Error> {
    for (key, value) in from {
        charge(state, COMPARISON.saturating_mul(into.len()))?;
        match into.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) if recursive && old.kind() == ValueKind::Map && value.kind() == ValueKind::Map => {
                let mut inner = pairs("combine", old)?;
                merge(state, &mut inner, pairs("combine", &value)?, true)?;
                *old = Value::from_pairs(inner);
            }
            Some((_, old)) => *old = value,
            None => into.push((key, value)),
        }
    }
    Ok(())
}

fn dict2items(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let key_name = options.get::<Option<&str>>("key_name")?.unwrap_or("key").to_owned();
    let value_name = options.get::<Option<&str>>("value_name")?.unwrap_or("value").to_owned();
    options.assert_all_used()?;
    let items = pairs("dict2items", value)?.into_iter().map(|(key, value)| {
        Value::from_pairs([(Value::from(key_name.as_str()), key), (Value::from(value_name.as_str()), value)])
    });
    Ok(Value::from(items.collect::<Vec<_>>()))
}

fn items2dict(state: &State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let key_name = options.get::<Option<&str>>("key_name")?.unwrap_or("key").to_owned();
    let value_name = options.get::<Option<&str>>("value_name")?.unwrap_or("value").to_owned();
    options.assert_all_used()?;
    let mut out = Vec::new();
    for item in list("items2dict", value)? {
        let (key, value) = (item.get_attr(&key_name)?, item.get_attr(&value_name)?);
        if key.is_undefined() || value.is_undefined() {
            return Err(wrong(format!("items2dict: a member of the list has no {key_name} or no {value_name}")));
        }
        merge(state, &mut out, vec![(key, value)], false)?;
    }
    Ok(Value::from_pairs(out))
}
