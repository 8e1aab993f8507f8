//! basename, dirname, splitext: as Python's os.path has them.

use minijinja::{Environment, value::Value};

pub(super) fn add(environment: &mut Environment<'static>) {
    environment.add_filter("basename", |path: String| path.rsplit('/').next().unwrap_or_default().to_owned());
    environment.add_filter("dirname", |path: String| dirname(&path).to_owned());
    environment.add_filter("splitext", |path: String| {
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
