//! Renders the parameters of each task just before the task runs, with the results of earlier tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use minijinja::value::Serde;
use serde_json::Value;

use super::{
    coerce, computed,
    functions::{Loop, nodes_function, secret_function, shared_function},
    inputs::{Inputs, RenderError, Rendered},
};
use crate::{
    document::{Mode, Path, Place, Step, check_message},
    objects::{
        ObjectSet,
        task::{Book, IncludeContext, ModuleUse, Task},
    },
    taint::{Kind, Marks, Taint, Tainted, fields},
    template::{Engine, MissingInput, ReadTrace, Scope, Slot, Steps},
    tree,
    view::NodeView,
};

/// The renderer of the tasks of one TaskBook on one node.
#[derive(Debug)]
pub struct Renderer {
    trees: BTreeMap<String, Arc<dyn tree::Tree>>,
    scope: Scope,
    steps: Arc<Steps>,
    reads: Arc<ReadTrace>,
    engines: Mutex<BTreeMap<(String, String), Arc<Engine>>>,
    /// A lock for the list of missing inputs. Only one rendering at a time writes to the list of missing inputs.
    render_traced: Mutex<()>,
    /// The taints of the results of tasks, by the registered name of the result.
    result_taints: Mutex<BTreeMap<String, Taint>>,
    /// The registered names of the results of elected tasks.
    elected: BTreeSet<String>,
}

/// A member of a task's loop.
#[derive(Clone, PartialEq)]
pub struct Item {
    /// The value of the member.
    pub value: Value,
    /// The taints of the loop member and of all parts of the member.
    pub marks: Marks,
    /// The position of the member in the loop, counted from 0.
    pub index: usize,
    /// The number of members of the loop.
    pub length: usize,
}

impl Renderer {
    /// Creates the renderer of a TaskBook for one node.
    ///
    /// # Errors
    /// Returns an error if a computed variable or a variable of the TaskBook cannot be rendered.
    pub fn new(set: &ObjectSet, view: &NodeView, book: &Book, inputs: &Inputs) -> Result<Self, RenderError> {
        let reads = Arc::new(ReadTrace::default());
        let mut common = BTreeMap::new();
        common.insert("node", minijinja::Value::from(Serde(view.template_value())));
        common.insert("facts", crate::template::facts_value(&inputs.facts, &reads));
        common.insert("nodes", nodes_function(Arc::clone(&inputs.nodes), &view.node, Arc::clone(&reads)));
        common.insert("secret", secret_function(book.namespace.clone(), Arc::clone(&reads)));
        common.insert("shared", shared_function(Arc::clone(&reads)));
        let merged = view.variables(set, &book.namespace);
        let engine = Engine::new(Arc::new(tree::MemoryTree::default()), "");
        let vars = computed::evaluate(&engine, &merged, &book.namespace, &common, inputs, &reads)?;
        let steps = Arc::new(Steps::default());
        let mut scope = Scope::new(common, Arc::new(vars)).with_steps(&steps, "", &reads);
        if let Some(event) = &inputs.event {
            let taint = Taint::new(Kind::Untrusted, "the event");
            scope = scope.with("event", Slot::new(&Tainted::whole(event.clone(), taint)));
        }
        let elected = elected_results(book);
        let renderer = Self {
            trees: set.trees.clone(),
            scope,
            steps,
            reads,
            engines: Mutex::default(),
            render_traced: Mutex::default(),
            elected: elected.keys().cloned().collect(),
            result_taints: Mutex::new(elected),
        };
        let own = IncludeContext { source: book.place.source().to_owned(), ..IncludeContext::default() };
        let scope = renderer.book_scope(&own, &book.vars, &book.place.key("vars"))?;
        Ok(Self { scope, ..renderer })
    }

    /// Returns the scope for the templates of the TaskBook, with the variables of the TaskBook. If the expression of a
    /// variable uses a value that is not known yet, the variable has no value.
    fn book_scope(
        &self,
        own: &IncludeContext,
        vars: &serde_json::Map<String, Value>,
        place: &Place,
    ) -> Result<Scope, RenderError> {
        let mut scope = self.scope.clone();
        for (name, value) in vars {
            let one = [(name.clone(), value.clone())].into_iter().collect();
            let extended = self.with_vars(own, scope.clone(), &one, place);
            let missing_inputs = self.reads.take_missing_inputs();
            let is_unknown = missing_inputs.iter().any(|want| matches!(want, MissingInput::Computed(_)));
            scope = if is_unknown { scope.with_unknown(name, &self.reads) } else { extended? };
            missing_inputs.into_iter().filter(|_| !is_unknown).for_each(|want| self.reads.want(want));
        }
        Ok(scope)
    }

    /// Records the registered result of a task, with the taint of the task's parameters. The whole result of an elected
    /// task is untrusted, because another node may have written the result.
    pub fn register(&self, name: &str, result: &Value) {
        let taint = self.result_taints.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let taint = taint.unwrap_or_default();
        let result = if self.elected.contains(name) {
            Tainted::whole(result.clone(), taint)
        } else {
            with_result_taint(result, &taint)
        };
        self.steps.set(name, &result);
    }

    /// Adds the taint of a task's parameters to the recorded taint of the task's result.
    fn taint_result(&self, task: &Task, params: &Marks) {
        let Some(name) = task.register.as_ref().filter(|_| !params.is_clean()) else { return };
        let mut taints = self.result_taints.lock().unwrap_or_else(PoisonError::into_inner);
        taints.entry(name.clone()).or_default().add(&params.taint());
    }

    /// Returns the record of all facts and missing inputs that templates have read so far.
    pub fn reads(&self) -> &ReadTrace {
        &self.reads
    }

    /// Returns the file tree of a task's source.
    pub fn tree(&self, task: &Task) -> Option<Arc<dyn tree::Tree>> {
        self.trees.get(&task.within.source).cloned()
    }

    /// Returns the members of a task's loop, or `None` if the task has no loop.
    ///
    /// # Errors
    /// Returns an error if the value of `loop` cannot be rendered, or is not a list.
    pub fn items(&self, task: &Task) -> Result<Rendered<Option<Vec<Item>>>, RenderError> {
        let Some(written) = &task.loop_items else { return Ok(Rendered::Ready(None)) };
        let place = task.place.key("loop");
        self.render_traced(|| {
            // The loop can use only those variables of the task that do not use the loop's members.
            let vars = task.vars.iter().filter(|(_, value)| !coerce::uses_item(value));
            let vars = vars.map(|(name, value)| (name.clone(), value.clone())).collect();
            let scope = self.within_scope(&task.within, &task.place)?;
            let scope = self.with_vars(&task.within, scope, &vars, &task.place.key("vars"))?;
            let filled = self.fill(&task.within, &scope, written, &place)?;
            let Value::Array(values) = filled.value() else {
                let shown = if filled.marks().is_clean() { shown(filled.value()) } else { format!("{filled:?}") };
                return Err(RenderError {
                    place: place.clone(),
                    message: format!("the loop is not a list, but {shown}"),
                });
            };
            let length = values.len();
            let item = |(index, value): (usize, &Value)| {
                let marks = filled.marks().member(&Step::Index(index));
                Item { value: value.clone(), marks, index, length }
            };
            Ok(Some(values.iter().enumerate().map(item).collect()))
        })
    }

    /// Returns true if all conditions of a task are true.
    ///
    /// # Errors
    /// Returns an error if a condition cannot be evaluated.
    pub fn condition(&self, task: &Task, item: Option<&Item>) -> Result<Rendered<bool>, RenderError> {
        for condition in &task.when {
            let own = Arc::ptr_eq(&condition.within, &task.within);
            let result = self.render_traced(|| {
                let scope =
                    if own { self.task_scope(task, item)? } else { self.within_scope(&condition.within, &task.place)? };
                self.holds(&condition.within, &scope, &condition.expression, &task.place.key("when"))
            })?;
            match result {
                Rendered::Ready(true) => {}
                Rendered::Ready(false) => return Ok(Rendered::Ready(false)),
                Rendered::Missing(missing_inputs) => return Ok(Rendered::Missing(missing_inputs)),
            }
        }
        Ok(Rendered::Ready(true))
    }

    /// Renders the parameters of a task's module, and checks them against the schema.
    ///
    /// # Errors
    /// Returns an error if a template fails, if a value does not fit the schema, or if a value is untrusted although
    /// the parameter does not allow untrusted values.
    pub fn params(&self, task: &Task, item: Option<&Item>) -> Result<Rendered<Tainted<Value>>, RenderError> {
        let Some(module) = &task.module else { return Ok(Rendered::Ready(Tainted::default())) };
        let place = task.place.key(module.name);
        self.render_traced(|| {
            let scope = self.task_scope(task, item)?;
            if module.schema.expressions().next().is_some() {
                return self.assertions(task, &scope, &module.params, &place);
            }
            let (mut params, mut marks) = self.fill(&task.within, &scope, &module.params, &place)?.split();
            coerce::to_schema(module.schema.message, &mut params);
            let checked = check_message(module.schema.message, &params, Mode::Rendered);
            if let Some((path, _, finding)) = checked.findings.into_iter().next() {
                let hint = finding.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                let message = match marks.at(&path.0).taint() {
                    taint if taint.has(Kind::Secret) => {
                        format!(
                            "the value of {path} does not fit the schema; \
                             the message omits the value, because the value is {taint}"
                        )
                    }
                    _ => format!("{}{hint}", finding.message),
                };
                return Err(RenderError { place: place.below(&path), message });
            }
            refuse(module, &module.params, &marks, &place)?;
            if let Some(path) = params.get("template").and_then(Value::as_str).map(str::to_owned) {
                let content = self.template_file(task, &scope, &path, &place.key("template"))?;
                if let Some(map) = params.as_object_mut() {
                    map.remove("template");
                    marks = marks.with_key("content", content.marks().clone());
                    map.insert("content".into(), content.into_value());
                }
                refuse(module, &module.params, &marks, &place)?;
            }
            self.taint_result(task, &marks);
            Ok(Tainted::new(params, marks))
        })
    }

    /// Renders only the parameters that identify the managed item of a task, such as `path`.
    pub(super) fn identity_params(
        &self,
        task: &Task,
        params: &Value,
        item: Option<&Item>,
    ) -> Result<Rendered<Value>, RenderError> {
        let Some(module) = &task.module else { return Ok(Rendered::Ready(Value::Null)) };
        let place = task.place.key(module.name);
        self.render_traced(|| {
            let scope = self.task_scope(task, item)?;
            let mut params = self.fill(&task.within, &scope, params, &place)?.into_value();
            coerce::to_schema(module.schema.message, &mut params);
            Ok(params)
        })
    }

    /// Evaluates the expressions of an `assert` task. The returned parameters contain only the expressions that are not
    /// true.
    fn assertions(
        &self,
        task: &Task,
        scope: &Scope,
        params: &Value,
        place: &Place,
    ) -> Result<Tainted<Value>, RenderError> {
        let mut failed = Vec::new();
        for (index, that) in params.get("that").and_then(Value::as_array).into_iter().flatten().enumerate() {
            let expression = that.as_str().map_or_else(|| that.to_string(), str::to_owned);
            if !self.holds(&task.within, scope, &expression, &place.key("that").index(index))? {
                failed.push(Value::String(expression));
            }
        }
        let (mut params, mut marks) = (params.clone(), Marks::Clean);
        if let Some(map) = params.as_object_mut() {
            let message = map.get("message").cloned();
            map.insert("that".into(), Value::Array(failed));
            if let Some(message) = message {
                let message = self.fill(&task.within, scope, &message, &place.key("message"))?;
                marks = marks.with_key("message", message.marks().clone());
                map.insert("message".into(), message.into_value());
            }
        }
        Ok(Tainted::new(params, marks))
    }

    /// Evaluates a condition. The condition may read `result`, the result of a task.
    ///
    /// # Errors
    /// Returns an error if the expression cannot be evaluated.
    pub fn judge(
        &self,
        task: &Task,
        item: Option<&Item>,
        key: &str,
        expression: &str,
        result: &Value,
    ) -> Result<Rendered<bool>, RenderError> {
        self.render_traced(|| {
            let scope = self.task_scope(task, item)?.with("result", Slot::clean(minijinja::Value::from(Serde(result))));
            self.holds(&task.within, &scope, expression, &task.place.key(key))
        })
    }

    /// Returns the value of an expression that may read `result`, the result of a task. The returned value has the
    /// taint of the task's result.
    ///
    /// # Errors
    /// Returns an error if the expression cannot be evaluated.
    pub fn value(
        &self,
        task: &Task,
        expression: &str,
        result: &Value,
        taint: &Taint,
    ) -> Result<Rendered<Tainted<Value>>, RenderError> {
        self.render_traced(|| {
            let scope = self.task_scope(task, None)?.with("result", Slot::new(&with_result_taint(result, taint)));
            let engine = self.engine(&task.within);
            engine.expression(expression, &scope.context()).map_err(|error| RenderError::at(&task.place, error))
        })
    }

    /// Runs a rendering. If an input is missing, returns the missing inputs instead of a value.
    fn render_traced<T>(&self, render: impl FnOnce() -> Result<T, RenderError>) -> Result<Rendered<T>, RenderError> {
        // The lock separates the missing inputs of concurrent renderings.
        let _alone = self.render_traced.lock().unwrap_or_else(PoisonError::into_inner);
        let result = render();
        let missing_inputs = self.reads.take_missing_inputs();
        if missing_inputs.is_empty() { result.map(Rendered::Ready) } else { Ok(Rendered::Missing(missing_inputs)) }
    }

    fn task_scope(&self, task: &Task, item: Option<&Item>) -> Result<Scope, RenderError> {
        let mut scope = self.within_scope(&task.within, &task.place)?;
        if let Some(item) = item {
            let member = Tainted::new(item.value.clone(), item.marks.clone());
            scope = scope.with("item", Slot::new(&member)).with(
                "loop",
                Slot::clean(minijinja::Value::from_object(Loop { index: item.index, length: item.length })),
            );
        }
        self.with_vars(&task.within, scope, &task.vars, &task.place.key("vars"))
    }

    /// Returns the scope for the templates of an include: the scope of the TaskBook, plus the variables of the
    /// enclosing includes.
    fn within_scope(&self, within: &IncludeContext, place: &Place) -> Result<Scope, RenderError> {
        let Some(outer) = &within.outer else { return Ok(self.scope.clone()) };
        let scope = self.within_scope(outer, place)?;
        let scope = self.with_vars(outer, scope, &within.vars, place)?;
        Ok(scope.with_steps(&self.steps, &within.prefix, &self.reads))
    }

    /// Adds variables to a scope. The expression of each variable can use the variables that precede it in the list.
    fn with_vars(
        &self,
        within: &IncludeContext,
        mut scope: Scope,
        vars: &serde_json::Map<String, Value>,
        place: &Place,
    ) -> Result<Scope, RenderError> {
        let mut own = BTreeMap::new();
        for (name, value) in vars {
            if coerce::has_template(value) {
                // A variable with a template must see the variables before it.
                scope = scope.with_vars(std::mem::take(&mut own));
            }
            let value = self.fill(within, &scope, value, &place.key(name))?;
            own.insert(name.clone(), Slot::new(&value));
        }
        Ok(if own.is_empty() { scope } else { scope.with_vars(own) })
    }

    /// Renders all templates in a value.
    fn fill(
        &self,
        within: &IncludeContext,
        scope: &Scope,
        value: &Value,
        place: &Place,
    ) -> Result<Tainted<Value>, RenderError> {
        if !coerce::has_template(value) {
            return Ok(Tainted::clean(value.clone()));
        }
        let engine = self.engine(within);
        let (value, marks) = fill(&engine, &scope.context(), value, place)?;
        Ok(Tainted::new(value, marks))
    }

    fn holds(
        &self,
        within: &IncludeContext,
        scope: &Scope,
        expression: &str,
        place: &Place,
    ) -> Result<bool, RenderError> {
        self.engine(within).holds(expression, &scope.context()).map_err(|error| RenderError::at(place, error))
    }

    fn template_file(
        &self,
        task: &Task,
        scope: &Scope,
        path: &str,
        place: &Place,
    ) -> Result<Tainted<Value>, RenderError> {
        self.engine(&task.within).file(path, &scope.context()).map_err(|error| RenderError::at(place, error))
    }

    fn engine(&self, within: &IncludeContext) -> Arc<Engine> {
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

fn fill(
    engine: &Engine,
    context: &minijinja::Value,
    value: &Value,
    place: &Place,
) -> Result<(Value, Marks), RenderError> {
    Ok(match value {
        Value::String(text) => engine.repeated(text, context).map_err(|error| RenderError::at(place, error))?.split(),
        Value::Array(members) => {
            let (mut filled, mut marks) = (Vec::with_capacity(members.len()), Vec::new());
            for (index, member) in members.iter().enumerate() {
                let (member, own) = fill(engine, context, member, &place.index(index))?;
                filled.push(member);
                marks.push((Step::Index(index), own));
            }
            (Value::Array(filled), Marks::parts(Taint::NONE, marks))
        }
        Value::Object(members) => {
            let (mut filled, mut marks) = (serde_json::Map::new(), Vec::new());
            for (key, member) in members {
                let (member, own) = fill(engine, context, member, &place.key(key))?;
                filled.insert(key.clone(), member);
                if !own.is_clean() {
                    marks.push((Step::Key(key.as_str().into()), own));
                }
            }
            (Value::Object(filled), Marks::parts(Taint::NONE, marks))
        }
        other => (other.clone(), Marks::Clean),
    })
}

/// Returns an error if a parameter of a module has an untrusted value, but does not allow untrusted values.
fn refuse(module: &ModuleUse, written: &Value, marks: &Marks, place: &Place) -> Result<(), RenderError> {
    let Some((path, taint)) = fields::refused(module.schema, marks) else { return Ok(()) };
    let expression = match at_path(written, &path) {
        Some(Value::String(text)) => format!(" from {text:?}"),
        _ => String::new(),
    };
    let origins = taint.origins(Kind::Untrusted).join(", ");
    Err(RenderError {
        place: place.below(&path),
        message: format!(
            "cannot render {}.{path}{expression}: the value comes from {origins}, and is untrusted; pass the value in \
             `argv`, `env`, `stdin` or the content of a file",
            module.name,
        ),
    })
}

/// Returns the value at a path. If the path does not exist, returns the value at the deepest part of the path that
/// exists.
fn at_path<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.0.iter().try_fold(value, |value, step| match step {
        Step::Key(key) if value.is_object() => value.get(&**key),
        Step::Index(index) if value.is_array() => value.get(index),
        _ => Some(value),
    })
}

/// Returns the result of a task that this node ran, with the taint of the task's parameters. The fields `changed` and
/// `outcome` of the result have no taint, because this agent sets both fields.
fn with_result_taint(result: &Value, taint: &Taint) -> Tainted<Value> {
    let Some(fields) = result.as_object().filter(|_| !taint.is_none()) else {
        return Tainted::whole(result.clone(), taint.clone());
    };
    let own = ["changed", "outcome"];
    let fields = fields.keys().filter(|key| !own.contains(&key.as_str()));
    let marks = fields.map(|key| (Step::Key(key.as_str().into()), Marks::whole(taint.clone())));
    Tainted::new(result.clone(), Marks::parts(Taint::NONE, marks))
}

/// Returns the taints of the results of elected tasks. The result of an elected task is untrusted, because another node
/// may have written the result.
fn elected_results(book: &Book) -> BTreeMap<String, Taint> {
    let lists = [&book.rollout.before, &book.tasks, &book.handlers, &book.rollout.after];
    let elected = lists.into_iter().flatten().filter(|task| task.elect.is_some());
    let taint = |task: &Task| Taint::new(Kind::Untrusted, format!("the result of the elected task {:?}", task.id));
    elected.filter_map(|task| Some((task.register.clone()?, taint(task)))).collect()
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = Tainted::new(&self.value, self.marks.clone());
        f.debug_struct("Item").field("value", &value).field("index", &self.index).finish()
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}
