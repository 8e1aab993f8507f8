//! The filters `basename`, `dirname` and `splitext`, which return the same results as the functions of Python's
//! `os.path`.

use minijinja::{Environment, value::Value};

use super::metered;

pub(super) fn add(environment: &mut Environment<'static>) {
    metered::add(environment, "basename", |path: String| path.rsplit('/').next().unwrap_or_default().to_owned());
    metered::add(environment, "dirname", |path: String| dirname(&path).to_owned());
    metered::add(environment, "splitext", |path: String| {
        let (stem, extension) = splitext(&path);
        Value::from(vec![Value::from(stem), Value::from(extension)])
    });
}

fn dirname(path: &str) -> &str {
    let head = path.rfind('/').map_or("", |at| &path[..=at]);
    let trimmed = head.trim_end_matches('/');
    if trimmed.is_empty() { head } else { trimmed }
}

fn splitext(path: &str) -> (&str, &str) {
    let name_at = path.rfind('/').map_or(0, |at| at + 1);
    let name = &path[name_at..];
    let leading = name.len() - name.trim_start_matches('.').len();
    match name[leading..].rfind('.') {
        Some(dot) => path.split_at(name_at + leading + dot),
        None => (path, ""),
    }
}
