//! Renders strings, expressions and files as templates. A template can import or include the template files of one
//! folder.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::{Environment, ErrorKind, Template, Value};
use serde_json::Value as Json;
use thiserror::Error;

use super::{environment::environment, guard, settings::OUTPUT, syntax, tainted, trace};
use crate::{
    taint::{Kind, Taint, Tainted},
    tree::{self, Tree},
};

/// An error because a template cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct TemplateError {
    /// The error message, with the name and the line of the template.
    pub message: String,
}

/// The prefix of template names that contain the text of the template instead of a path. No path of a file begins with
/// this prefix.
const WRITTEN: &str = "\0";

/// The prefix of template names that cause an error. If a template computes a template name from untrusted values, the
/// engine puts this prefix before the name. After the prefix, the name lists the origins of the untrusted values.
const UNTRUSTED: &str = "\u{1}";

/// The template engine for one folder of a source. `import` and `include` read templates from the folder of the engine.
pub struct Engine {
    environment: Environment<'static>,
    named: NamedTemplates,
}

/// The template names that occur literally in `include` and `import` statements. If a template computes a template name
/// from untrusted values, the name must also occur literally in a template.
#[derive(Clone, Default)]
struct NamedTemplates(Arc<Mutex<BTreeSet<String>>>);

impl NamedTemplates {
    fn add(&self, text: &str) {
        if ["include", "import", "extends"].iter().any(|word| text.contains(word)) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(syntax::template_names(text));
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

fn guarded(text: &str) -> Result<Cow<'_, str>, minijinja::Error> {
    guard::template(text).map_err(|why| minijinja::Error::new(ErrorKind::InvalidOperation, why))
}

fn untrusted_name(origins: &str) -> minijinja::Error {
    let why = format!(
        "cannot use a computed template name: the template has read untrusted values from {origins}; write literal \
         names in `if` and `else`"
    );
    minijinja::Error::new(ErrorKind::InvalidOperation, why)
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// Creates an engine that reads template files from a folder of a file tree.
    pub fn new(tree: Arc<dyn Tree>, folder: &str) -> Self {
        let mut environment = environment();
        let folder = folder.to_owned();
        let named = NamedTemplates::default();
        let loaded = named.clone();
        environment.set_loader(move |name| {
            if let Some(origins) = name.strip_prefix(UNTRUSTED) {
                return Err(untrusted_name(origins));
            }
            let text = match name.strip_prefix(WRITTEN) {
                Some(text) => Some(text.to_owned()),
                None => load(tree.as_ref(), &folder, name)?,
            };
            let Some(text) = text else { return Ok(None) };
            loaded.add(&text);
            Ok(Some(guarded(&text)?.into_owned()))
        });
        let joined = named.clone();
        environment.set_path_join_callback(move |name, _| match trace::so_far() {
            read if read.has(Kind::Untrusted) && !joined.contains(name) => {
                format!("{UNTRUSTED}{}", read.origins(Kind::Untrusted).join(", ")).into()
            }
            _ => name.into(),
        });
        Self { environment, named }
    }

    /// Renders a string. If the whole string is one `{{ expression }}`, the result keeps the type of the value, for
    /// example a list.
    ///
    /// # Errors
    /// Returns an error if the template is invalid, or if it uses an undefined name.
    pub fn string(&self, text: &str, scope: &Value) -> Result<Tainted<Json>, TemplateError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(Tainted::clean(Json::String(text.to_owned())));
        }
        match syntax::whole_expression(text) {
            Some(expression) => self.expression(expression, scope),
            None => {
                self.named.add(text);
                traced_text(|| {
                    let text = guarded(text)?;
                    self.environment.template_from_str(&text).and_then(|template| output(&template, scope))
                })
            }
        }
    }

    /// Renders a string that is rendered several times, as in a loop. The engine compiles the string only once.
    ///
    /// # Errors
    /// Returns an error if the template is invalid, or if it uses an undefined name.
    pub fn repeated(&self, text: &str, scope: &Value) -> Result<Tainted<Json>, TemplateError> {
        let plain = !text.contains("{{") && !text.contains("{%") && !text.contains("{#");
        if plain || text.len() > 4096 || syntax::whole_expression(text).is_some() {
            return self.string(text, scope);
        }
        let name = format!("{WRITTEN}{text}");
        traced_text(|| self.environment.get_template(&name).and_then(|template| output(&template, scope)))
    }

    /// Evaluates an expression without braces.
    ///
    /// # Errors
    /// Returns an error if the expression is invalid, or if it uses an undefined name.
    pub fn expression(&self, text: &str, scope: &Value) -> Result<Tainted<Json>, TemplateError> {
        traced_result(|| {
            let value = self.value(text, scope)?;
            tainted::extract(&value).map_err(|message| TemplateError { message })
        })
        .map(|(value, _)| value)
    }

    /// Returns true if an expression without braces is true. The result has no taint, because a condition only selects
    /// a task or a member.
    ///
    /// # Errors
    /// Returns an error if the expression is invalid, or if it uses an undefined name.
    pub fn holds(&self, text: &str, scope: &Value) -> Result<bool, TemplateError> {
        traced_result(|| Ok(self.value(text, scope)?.is_true())).map(|(holds, _)| holds)
    }

    fn value(&self, text: &str, scope: &Value) -> Result<Value, TemplateError> {
        guard::expression(text).map_err(|message| TemplateError { message })?;
        let compiled = self.environment.compile_expression(text).map_err(|error| explain(&error))?;
        let value = compiled.eval(scope).map_err(|error| explain(&error))?;
        if value.is_undefined() {
            return Err(TemplateError { message: format!("{} is not defined", text.trim()) });
        }
        Ok(value)
    }

    /// Renders a file of the engine's folder as a template.
    ///
    /// # Errors
    /// Returns an error if the file does not exist, if the template is invalid, or if it uses an undefined name.
    pub fn file(&self, path: &str, scope: &Value) -> Result<Tainted<Json>, TemplateError> {
        traced_text(|| self.environment.get_template(path).and_then(|template| output(&template, scope)))
    }
}

fn traced_text(render: impl FnOnce() -> Result<String, minijinja::Error>) -> Result<Tainted<Json>, TemplateError> {
    let (text, read) = traced_result(|| render().map_err(|error| explain(&error)))?;
    Ok(Tainted::whole(Json::String(text), read))
}

/// Runs a rendering, and returns the result with the taints of all values that the rendering has read. If the rendering
/// has read a secret and fails, the error message is withheld, because the message may contain the secret.
fn traced_result<T>(render: impl FnOnce() -> Result<T, TemplateError>) -> Result<(T, Taint), TemplateError> {
    match trace::traced(render) {
        (Ok(result), read) => Ok((result, read)),
        (Err(_), read) if read.has(Kind::Secret) => Err(TemplateError {
            message: format!("cannot render the template: the message is withheld, because the template read {read}"),
        }),
        (Err(error), _) => Err(error),
    }
}

/// Returns the output of a template, or an error if the output exceeds the size limit.
fn output(template: &Template<'_, '_>, scope: &Value) -> Result<String, minijinja::Error> {
    let mut bounded = Bounded(Vec::new());
    let rendered = template.render_captured_to(scope, &mut bounded).map(drop);
    if bounded.0.len() > OUTPUT {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, tainted::too_large()));
    }
    rendered?;
    String::from_utf8(bounded.0).map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// A buffer for the output of a template, which limits the size of the output. The buffer has space for one byte more
/// than the limit, so that the caller notices a too large output.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() > OUTPUT {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(&bytes[..bytes.len().min(OUTPUT + 1 - self.0.len())]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn load(tree: &dyn Tree, folder: &str, name: &str) -> Result<Option<String>, minijinja::Error> {
    let path = tree::join(folder, name).map_err(|why| minijinja::Error::new(ErrorKind::InvalidOperation, why))?;
    let wrong = |why: String| minijinja::Error::new(ErrorKind::InvalidOperation, why);
    match tree.read(&path).map_err(|error| wrong(format!("{path}: {error}")))? {
        Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| wrong(format!("{path} is not valid UTF-8"))),
        None => Ok(None),
    }
}

/// Returns the message of an error, with the name and the line of the template and with all causes. The message never
/// contains values of variables.
fn explain(error: &minijinja::Error) -> TemplateError {
    let mut message = describe(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.downcast_ref::<minijinja::Error>().map_or_else(|| inner.to_string(), describe);
        message.push_str(": ");
        message.push_str(&text);
        cause = inner.source();
    }
    TemplateError { message }
}

fn describe(error: &minijinja::Error) -> String {
    let place = match (error.name(), error.line()) {
        (Some(name), Some(line)) if !name.starts_with(['<', '\0']) => format!("{name}:{line}: "),
        _ => String::new(),
    };
    match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => match undefined_name(error) {
            Some(name) => format!("{place}{name} is not defined"),
            None => format!("{place}a name is not defined"),
        },
        (ErrorKind::OutOfFuel, _) => format!("{place}the template takes too long: check that its loops end"),
        (ErrorKind::TemplateNotFound, _) => {
            format!("{place}the source does not contain the template: {}", error.detail().unwrap_or_default())
        }
        (_, Some(detail)) => format!("{place}{detail}"),
        (kind, None) => format!("{place}{kind}"),
    }
}

/// Returns the text of the undefined name that has caused an error, such as `vars.port`.
fn undefined_name(error: &minijinja::Error) -> Option<String> {
    let source = error.template_source()?;
    let text = source.get(error.range()?)?.trim();
    (!text.is_empty() && text.len() < 120).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::MemoryTree;

    fn engine(files: &[(&str, &str)]) -> Engine {
        Engine::new(Arc::new(files.iter().copied().collect::<MemoryTree>()), "")
    }

    #[test]
    fn whole_expressions_keep_their_type() {
        let scope = minijinja::context! { vars => minijinja::context! { port => 80 } };
        assert_eq!(engine(&[]).string("{{ vars.port }}", &scope).unwrap().into_value(), Json::from(80));
        assert_eq!(engine(&[]).string("p{{ vars.port }}", &scope).unwrap().into_value(), Json::from("p80"));
    }

    #[test]
    fn undefined_names_are_errors() {
        let scope = minijinja::context! { vars => minijinja::context! {} };
        for text in ["{{ vars.nope }}", "a {{ vars.nope }}", "{{ nope }}"] {
            let error = engine(&[]).string(text, &scope).unwrap_err();
            assert!(error.message.contains("nope"), "{error}");
        }
    }

    #[test]
    fn macros_are_imported_across_files() {
        let engine = engine(&[
            ("templates/m.j2", "{% macro line(x) %}<{{ x }}>{% endmacro %}"),
            ("templates/t.j2", "{% from 'templates/m.j2' import line %}{{ line(1) }}\n"),
        ]);
        let text = engine.file("templates/t.j2", &minijinja::context! {}).unwrap();
        assert_eq!(text.into_value(), Json::from("<1>\n"));
    }

    #[test]
    fn endless_work_is_stopped() {
        let error = engine(&[])
            .string(
                "{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
                &minijinja::context! {},
            )
            .unwrap_err();
        assert!(error.message.contains("too long"), "{error}");
    }
}
