//! Renders strings and expressions of one folder of one source.

use std::{error::Error as _, sync::Arc};

use minijinja::{Environment, ErrorKind, Value};
use thiserror::Error;

use super::{environment, syntax};
use crate::tree::{self, Tree};

/// A template that could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct TemplateError {
    /// What is wrong, with the template's name and line.
    pub message: String,
}

/// What stands before the text of a template that is kept under itself as name; no path of a source begins so.
const WRITTEN: &str = "\0";

/// Renders what stands in one folder of one source: `import` and `include` in templates read there.
pub struct Engine {
    environment: Environment<'static>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    /// An engine that loads templates from a folder of a tree, never from the disk.
    pub fn new(tree: Arc<dyn Tree>, folder: &str) -> Self {
        let mut environment = environment();
        let folder = folder.to_owned();
        environment.set_loader(move |name| match name.strip_prefix(WRITTEN) {
            Some(text) => Ok(Some(text.to_owned())),
            None => load(tree.as_ref(), &folder, name),
        });
        Self { environment }
    }

    /// Renders a string. One whole `{{ expression }}` keeps its type.
    ///
    /// # Errors
    /// When the template is wrong, or uses a name that is not defined.
    pub fn string(&self, text: &str, scope: &Value) -> Result<Value, TemplateError> {
        if !text.contains("{{") && !text.contains("{%") && !text.contains("{#") {
            return Ok(Value::from(text));
        }
        match syntax::whole_expression(text) {
            Some(expression) => self.expression(expression, scope),
            None => self.environment.render_str(text, scope).map(Value::from).map_err(|error| explain(&error)),
        }
    }

    /// Renders a string that will be rendered again, as in a loop: it is compiled once.
    ///
    /// # Errors
    /// As for any string.
    pub fn repeated(&self, text: &str, scope: &Value) -> Result<Value, TemplateError> {
        let plain = !text.contains("{{") && !text.contains("{%") && !text.contains("{#");
        if plain || text.len() > 4096 || syntax::whole_expression(text).is_some() {
            return self.string(text, scope);
        }
        let template = self.environment.get_template(&format!("{WRITTEN}{text}")).map_err(|error| explain(&error))?;
        template.render(scope).map(Value::from).map_err(|error| explain(&error))
    }

    /// Evaluates a bare expression.
    ///
    /// # Errors
    /// When the expression is wrong, or uses a name that is not defined.
    pub fn expression(&self, text: &str, scope: &Value) -> Result<Value, TemplateError> {
        let compiled = self.environment.compile_expression(text).map_err(|error| explain(&error))?;
        let value = compiled.eval(scope).map_err(|error| explain(&error))?;
        if value.is_undefined() {
            return Err(TemplateError { message: format!("{} is not defined", text.trim()) });
        }
        Ok(value)
    }

    /// Renders a file of the folder as a template.
    ///
    /// # Errors
    /// When there is no such file, or as for a string.
    pub fn file(&self, path: &str, scope: &Value) -> Result<String, TemplateError> {
        let template = self.environment.get_template(path).map_err(|error| explain(&error))?;
        template.render(scope).map_err(|error| explain(&error))
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

/// One sentence, with the name and line of the template and its causes, but never the values of variables.
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
        (ErrorKind::OutOfFuel, _) => format!("{place}the template takes too long: does a loop never end?"),
        (ErrorKind::TemplateNotFound, _) => {
            format!("{place}there is no such template in the source: {}", error.detail().unwrap_or_default())
        }
        (_, Some(detail)) => format!("{place}{detail}"),
        (kind, None) => format!("{place}{kind}"),
    }
}

/// The source text of the expression that was undefined.
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
        assert_eq!(engine(&[]).string("{{ vars.port }}", &scope).unwrap(), Value::from(80));
        assert_eq!(engine(&[]).string("p{{ vars.port }}", &scope).unwrap(), Value::from("p80"));
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
        assert_eq!(engine.file("templates/t.j2", &minijinja::context! {}).unwrap(), "<1>\n");
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
