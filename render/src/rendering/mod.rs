//! Tasks to parameters, one by one, as results become known. Rendering asks, it does not call: what it needs
//! and does not have is a value, [`Rendered::Wants`].

mod coerce;
mod computed;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::value::{Kwargs, Object, Rest, Serde};
use serde_json::Value;
use thiserror::Error;

use crate::{
    document::{Mode, Place, check_message},
    objects::{
        ObjectSet,
        task::{Book, Task, Within},
    },
    template::{Engine, Reads, Scope, Steps, TemplateError, Vars, Want},
    tree,
    view::NodeView,
};

pub use computed::{PendingTask, pending_tasks};

/// What came of a rendering.
#[derive(Debug, Clone, PartialEq)]
pub enum Rendered<T> {
    /// It is known.
    Ready(T),
    /// It needs these first.
    Wants(Vec<Want>),
}

/// A task that can't be rendered: where and why.
#[derive(Debug, Clone, Error)]
#[error("{}: {message}", place.file_line())]
pub struct RenderError {
    /// Where the template was written.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

/// What a node knows when it renders.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Its facts.
    pub facts: Value,
    /// All nodes as `nodes()` gives them, with their labels.
    pub nodes: Arc<Vec<Value>>,
    /// The values that tasks have computed: by namespace and name.
    pub computed: BTreeMap<(String, String), Value>,
    /// The event, in a triggered run.
    pub event: Option<Value>,
}

/// Renders the tasks of one book on one node.
#[derive(Debug)]
pub struct Renderer {
    trees: BTreeMap<String, Arc<dyn tree::Tree>>,
    scope: Scope,
    steps: Arc<Steps>,
    reads: Arc<Reads>,
    engines: Mutex<BTreeMap<(String, String), Arc<Engine>>>,
    /// One rendering at a time: they share the note of what they want.
    asking: Mutex<()>,
}

/// One member of a task's loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The member.
    pub value: Value,
    /// Its number, from 0.
    pub index: usize,
    /// How many there are.
    pub length: usize,
}

impl Renderer {
    /// A renderer for a book.
    ///
    /// # Errors
    /// When a computed value or a variable of the book can't be rendered.
    pub fn new(set: &ObjectSet, view: &NodeView, book: &Book, inputs: &Inputs) -> Result<Self, RenderError> {
        let reads = Arc::new(Reads::default());
        let mut common = BTreeMap::new();
        common.insert("node", minijinja::Value::from(Serde(view.template_value())));
        common.insert("facts", crate::template::facts_value(&inputs.facts, &reads));
        common.insert("nodes", nodes_function(Arc::clone(&inputs.nodes), Arc::clone(&reads)));
        common.insert("secret", secret_function(book.namespace.clone(), Arc::clone(&reads)));
        common.insert("shared", shared_function(Arc::clone(&reads)));
        if let Some(event) = &inputs.event {
            common.insert("event", minijinja::Value::from(Serde(event)));
        }
        let merged = view.variables(set, &book.namespace);
        let engine = Engine::new(Arc::new(tree::MemoryTree::default()), "");
        let vars = computed::evaluate(&engine, &merged, &book.namespace, &common, inputs)?;
        let steps = Arc::new(Steps::default());
        let scope = Scope::new(common, Arc::new(Vars::over(None, vars))).with_steps(&steps, "", &reads);
        let renderer =
            Self { trees: set.trees.clone(), scope, steps, reads, engines: Mutex::default(), asking: Mutex::default() };
        let own = Within { source: book.place.source().to_owned(), ..Within::default() };
        let scope = renderer.with_vars(&own, renderer.scope.clone(), &book.vars, &book.place.key("vars"))?;
        Ok(Self { scope, ..renderer })
    }

    /// Sets the registered result of a task.
    pub fn register(&self, name: &str, result: &Value) {
        self.steps.set(name, result);
    }

    /// What has been read so far.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The tree of the source that a task belongs to.
    pub fn tree(&self, task: &Task) -> Option<Arc<dyn tree::Tree>> {
        self.trees.get(&task.within.source).cloned()
    }

    /// The members of a task's loop; None where it has none.
    ///
    /// # Errors
    /// When the loop can't be rendered, or is no list.
    pub fn items(&self, task: &Task) -> Result<Rendered<Option<Vec<Item>>>, RenderError> {
        let Some(written) = &task.looped else { return Ok(Rendered::Ready(None)) };
        let place = task.place.key("loop");
        self.asking(|| {
            // Of the task's own vars the loop sees those that do not need its members.
            let vars = task.vars.iter().filter(|(_, value)| !coerce::uses_item(value));
            let vars = vars.map(|(name, value)| (name.clone(), value.clone())).collect();
            let scope = self.within_scope(&task.within, &task.place)?;
            let scope = self.with_vars(&task.within, scope, &vars, &task.place.key("vars"))?;
            let value = self.fill(&task.within, &scope, written, &place)?;
            let Value::Array(values) = value else {
                return Err(RenderError {
                    place: place.clone(),
                    message: format!("the loop is no list, but {}", shown(&value)),
                });
            };
            let length = values.len();
            Ok(Some(values.into_iter().enumerate().map(|(index, value)| Item { value, index, length }).collect()))
        })
    }

    /// Whether a task runs.
    ///
    /// # Errors
    /// When a condition can't be evaluated.
    pub fn condition(&self, task: &Task, item: Option<&Item>) -> Result<Rendered<bool>, RenderError> {
        for condition in &task.when {
            let own = Arc::ptr_eq(&condition.within, &task.within);
            let result = self.asking(|| {
                let scope =
                    if own { self.task_scope(task, item)? } else { self.within_scope(&condition.within, &task.place)? };
                self.evaluate(&condition.within, &scope, &condition.expression, &task.place.key("when"))
            })?;
            match result {
                Rendered::Ready(value) if value.is_true() => {}
                Rendered::Ready(_) => return Ok(Rendered::Ready(false)),
                Rendered::Wants(wants) => return Ok(Rendered::Wants(wants)),
            }
        }
        Ok(Rendered::Ready(true))
    }

    /// The parameters of a task's module, templates filled and checked against the schema.
    ///
    /// # Errors
    /// When a template can't be rendered, or gives what the schema refuses.
    pub fn params(&self, task: &Task, item: Option<&Item>) -> Result<Rendered<Value>, RenderError> {
        let Some(module) = &task.module else { return Ok(Rendered::Ready(Value::Null)) };
        let place = task.place.key(module.name);
        self.asking(|| {
            let scope = self.task_scope(task, item)?;
            if module.name == "assert" {
                return self.assertions(task, &scope, &module.params, &place);
            }
            let mut params = self.fill(&task.within, &scope, &module.params, &place)?;
            coerce::to_schema(module.message, &mut params);
            let checked = check_message(module.message, &params, Mode::Rendered);
            if let Some((path, _, finding)) = checked.findings.into_iter().next() {
                let hint = finding.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                return Err(RenderError { place: place.below(&path), message: format!("{}{hint}", finding.message) });
            }
            if let Some(path) = params.get("template").and_then(Value::as_str).map(str::to_owned) {
                let content = self.template_file(task, &scope, &path, &place.key("template"))?;
                if let Some(map) = params.as_object_mut() {
                    map.remove("template");
                    map.insert("content".into(), Value::String(content));
                }
            }
            Ok(params)
        })
    }

    /// An assertion is evaluated here: to the expressions that do not hold.
    fn assertions(&self, task: &Task, scope: &Scope, params: &Value, place: &Place) -> Result<Value, RenderError> {
        let mut failed = Vec::new();
        for (index, that) in params.get("that").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let expression = that.as_str().map_or_else(|| that.to_string(), str::to_owned);
            if !self.evaluate(&task.within, scope, &expression, &place.key("that").index(index))?.is_true() {
                failed.push(Value::String(expression));
            }
        }
        let mut params = params.clone();
        if let Some(map) = params.as_object_mut() {
            let message = map.get("message").cloned();
            map.insert("that".into(), Value::Array(failed));
            if let Some(message) = message {
                map.insert("message".into(), self.fill(&task.within, scope, &message, &place.key("message"))?);
            }
        }
        Ok(params)
    }

    /// Whether an expression over a task's `result` holds.
    ///
    /// # Errors
    /// When the expression can't be evaluated.
    pub fn judge(
        &self,
        task: &Task,
        item: Option<&Item>,
        key: &str,
        expression: &str,
        result: &Value,
    ) -> Result<Rendered<bool>, RenderError> {
        self.asking(|| {
            let scope = self.task_scope(task, item)?.with("result", minijinja::Value::from(Serde(result)));
            Ok(self.evaluate(&task.within, &scope, expression, &task.place.key(key))?.is_true())
        })
    }

    /// The value of an expression over a task's `result`.
    ///
    /// # Errors
    /// When the expression can't be evaluated.
    pub fn value(&self, task: &Task, expression: &str, result: &Value) -> Result<Rendered<Value>, RenderError> {
        self.asking(|| {
            let scope = self.task_scope(task, None)?.with("result", minijinja::Value::from(Serde(result)));
            let value = self.evaluate(&task.within, &scope, expression, &task.place)?;
            serde_json::to_value(&value)
                .map_err(|error| RenderError { place: task.place.clone(), message: error.to_string() })
        })
    }

    /// Runs a rendering and turns what came up missing into wants.
    fn asking<T>(&self, render: impl FnOnce() -> Result<T, RenderError>) -> Result<Rendered<T>, RenderError> {
        // What comes up missing must be this rendering's own.
        let _alone = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let result = render();
        let wants = self.reads.take_wants();
        if wants.is_empty() { result.map(Rendered::Ready) } else { Ok(Rendered::Wants(wants)) }
    }

    fn task_scope(&self, task: &Task, item: Option<&Item>) -> Result<Scope, RenderError> {
        let mut scope = self.within_scope(&task.within, &task.place)?;
        if let Some(item) = item {
            scope = scope
                .with("item", minijinja::Value::from(Serde(&item.value)))
                .with("loop", minijinja::Value::from_object(Loop { index: item.index, length: item.length }));
        }
        self.with_vars(&task.within, scope, &task.vars, &task.place.key("vars"))
    }

    /// What the tasks of an include see: the book's scope, and the vars of each include around them.
    fn within_scope(&self, within: &Within, place: &Place) -> Result<Scope, RenderError> {
        let Some(outer) = &within.outer else { return Ok(self.scope.clone()) };
        let scope = self.within_scope(outer, place)?;
        let scope = self.with_vars(outer, scope, &within.vars, place)?;
        Ok(scope.with_steps(&self.steps, &within.prefix, &self.reads))
    }

    /// Adds variables, each of which sees those before it.
    fn with_vars(
        &self,
        within: &Within,
        mut scope: Scope,
        vars: &serde_json::Map<String, Value>,
        place: &Place,
    ) -> Result<Scope, RenderError> {
        let mut own = BTreeMap::new();
        for (name, value) in vars {
            if coerce::has_template(value) {
                // What came so far must be seen by this one.
                scope = scope.with_vars(std::mem::take(&mut own));
            }
            let value = self.fill(within, &scope, value, &place.key(name))?;
            own.insert(name.clone(), minijinja::Value::from(Serde(value)));
        }
        Ok(if own.is_empty() { scope } else { scope.with_vars(own) })
    }

    /// Fills the templates of a value.
    fn fill(&self, within: &Within, scope: &Scope, value: &Value, place: &Place) -> Result<Value, RenderError> {
        if !coerce::has_template(value) {
            return Ok(value.clone());
        }
        let engine = self.engine(within);
        fill(&engine, &scope.context(), value, place)
    }

    fn evaluate(
        &self,
        within: &Within,
        scope: &Scope,
        expression: &str,
        place: &Place,
    ) -> Result<minijinja::Value, RenderError> {
        self.engine(within).expression(expression, &scope.context()).map_err(|error| at(place, error))
    }

    fn template_file(&self, task: &Task, scope: &Scope, path: &str, place: &Place) -> Result<String, RenderError> {
        self.engine(&task.within).file(path, &scope.context()).map_err(|error| at(place, error))
    }

    fn engine(&self, within: &Within) -> Arc<Engine> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&(within.source.clone(), within.folder.clone())) {
            return Arc::clone(engine);
        }
        let tree = self.trees.get(&within.source).cloned().unwrap_or_else(|| Arc::new(tree::MemoryTree::default()));
        let engine = Arc::new(Engine::new(tree, &within.folder));
        engines.insert((within.source.clone(), within.folder.clone()), Arc::clone(&engine));
        engine
    }
}

fn at(place: &Place, error: TemplateError) -> RenderError {
    RenderError { place: place.clone(), message: error.message }
}

fn fill(engine: &Engine, context: &minijinja::Value, value: &Value, place: &Place) -> Result<Value, RenderError> {
    Ok(match value {
        Value::String(text) => {
            let rendered = engine.repeated(text, context).map_err(|error| at(place, error))?;
            match rendered.as_str() {
                Some(text) => Value::String(text.to_owned()),
                None => serde_json::to_value(&rendered)
                    .map_err(|error| RenderError { place: place.clone(), message: error.to_string() })?,
            }
        }
        Value::Array(members) => {
            let filled =
                members.iter().enumerate().map(|(index, member)| fill(engine, context, member, &place.index(index)));
            Value::Array(filled.collect::<Result<_, _>>()?)
        }
        Value::Object(members) => {
            let filled =
                members.iter().map(|(key, member)| Ok((key.clone(), fill(engine, context, member, &place.key(key))?)));
            Value::Object(filled.collect::<Result<_, RenderError>>()?)
        }
        other => other.clone(),
    })
}

/// `loop`, made only as far as it is read.
#[derive(Debug)]
struct Loop {
    index: usize,
    length: usize,
}

impl Object for Loop {
    fn get_value(self: &Arc<Self>, key: &minijinja::Value) -> Option<minijinja::Value> {
        Some(match key.as_str()? {
            "index" => minijinja::Value::from(self.index + 1),
            "index0" => minijinja::Value::from(self.index),
            "first" => minijinja::Value::from(self.index == 0),
            "last" => minijinja::Value::from(self.index + 1 == self.length),
            "length" => minijinja::Value::from(self.length),
            _ => return None,
        })
    }
}

/// `nodes(SELECTOR)`: the nodes with matching labels; without a selector all of them.
fn nodes_function(nodes: Arc<Vec<Value>>, reads: Arc<Reads>) -> minijinja::Value {
    minijinja::Value::from_function(move |selector: Option<String>| -> Result<minijinja::Value, minijinja::Error> {
        reads.called_nodes();
        let selector = match selector.as_deref().map(crate::words::Selector::line) {
            Some(Ok(selector)) => Some(selector),
            Some(Err(finding)) => {
                return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, finding.message));
            }
            None => None,
        };
        let matches = |node: &&Value| {
            let labels = node.get("labels").and_then(Value::as_object);
            let labels = labels
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect();
            selector.as_ref().is_none_or(|selector| selector.matches(&labels))
        };
        Ok(nodes.iter().filter(matches).map(|node| minijinja::Value::from(Serde(node))).collect())
    })
}

fn secret_function(namespace: String, reads: Arc<Reads>) -> minijinja::Value {
    minijinja::Value::from_function(move |name: String, key: String, _: Rest<minijinja::Value>, _: Kwargs| {
        let full = if name.contains('/') { name } else { format!("{namespace}/{name}") };
        reads.want(Want::Secret(full, key));
        ""
    })
}

fn shared_function(reads: Arc<Reads>) -> minijinja::Value {
    minijinja::Value::from_function(move |name: String| {
        reads.want(Want::Shared(name));
        ""
    })
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}

#[cfg(test)]
mod tests;
