//! The syntax of a file as plain data: modules, items, imports, paths, structs, `&mut` parameters, string literals.
//! Test modules and test functions are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use syn::{
    Attribute, FnArg, Item, Type, UseTree, Visibility,
    buffer::Cursor,
    parse::ParseStream,
    visit::{self, Visit},
};

use crate::tree::Source;

/// A path as it is written: its names. A leading `::` is an empty name.
pub type Names = Vec<String>;

/// One module of a file: the file itself, or a module that is written inside it.
#[derive(Debug, Default)]
pub struct Scope {
    /// The names of the modules inside the file that lead to this one.
    pub inner: Names,
    /// The items that the module defines.
    pub items: BTreeSet<String>,
    /// Imported names and their paths.
    pub imports: BTreeMap<String, Names>,
    /// The paths of private imports; re-exports are not among them.
    pub uses: Vec<Names>,
    /// The paths of glob imports.
    pub globs: Vec<Names>,
    /// Every path in code, types, patterns and macros.
    pub paths: BTreeSet<Names>,
    /// The structs with their fields.
    pub structs: BTreeMap<String, Vec<Field>>,
    /// The types that code of this module changes through `&mut`.
    pub changes: BTreeSet<Names>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// True if other modules can reach the field.
    pub visible: bool,
    /// The types that the field may hold one of.
    pub types: Vec<Names>,
}

/// The facts of a file.
#[derive(Debug, Default)]
pub struct Facts {
    /// The path of the file.
    pub path: String,
    /// The modules of the file; the first is the file itself.
    pub scopes: Vec<Scope>,
    /// The text of each string literal outside attributes, and in the attributes that hold messages.
    pub strings: Vec<String>,
    /// The error of a file that does not parse.
    pub error: Option<String>,
}

/// Returns the facts of a file.
pub fn extract(source: &Source) -> Facts {
    let mut extractor =
        Extractor { facts: Facts { path: source.path.clone(), ..Facts::default() }, current: 0, own: None };
    extractor.facts.scopes.push(Scope::default());
    // Comments and tests are a third of the text, and parsing is what takes the time.
    let code: Vec<&str> = source.code().map(|(_, line)| line).collect();
    match syn::parse_file(&code.join("\n")) {
        Ok(file) => extractor.visit_file(&file),
        Err(error) => extractor.facts.error = Some(error.to_string()),
    }
    extractor.facts
}

/// Returns the facts of all shipped files that are not for tests alone, by several threads.
pub fn extract_all(sources: &[Source]) -> Vec<Facts> {
    let tests = test_files(sources);
    let shipped: Vec<&Source> =
        sources.iter().filter(|source| source.is_shipped() && !tests.contains(source.path.as_str())).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        while let Some(source) = shipped.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.push(extract(source));
        }
        found
    };
    let threads = std::thread::available_parallelism().map_or(1, |number| number.get()).min(shipped.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Returns the shipped files that belong to modules for tests alone.
pub fn test_files(sources: &[Source]) -> BTreeSet<&str> {
    let modules: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.is_shipped())
        .flat_map(|source| {
            let own = source.path.trim_end_matches(".rs");
            let folder = match own.rsplit_once('/') {
                Some((folder, "mod" | "lib" | "main")) => folder,
                _ => own,
            };
            source.test_modules().into_iter().map(move |module| format!("{folder}/{module}"))
        })
        .collect();
    let is_test = |path: &&str| {
        let path = path.trim_end_matches(".rs");
        modules.iter().any(|module| path == module || path.starts_with(&format!("{module}/")))
    };
    sources.iter().map(|source| source.path.as_str()).filter(is_test).collect()
}

struct Extractor {
    facts: Facts,
    current: usize,
    /// The type of the `impl` around the code.
    own: Option<Names>,
}

impl Extractor {
    fn scope(&mut self) -> &mut Scope {
        &mut self.facts.scopes[self.current]
    }

    fn import(&mut self, prefix: &mut Names, tree: &UseTree, private: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.import(prefix, &path.tree, private);
                prefix.pop();
            }
            UseTree::Name(name) => self.imported(prefix, name.ident.to_string(), None, private),
            UseTree::Rename(rename) => {
                self.imported(prefix, rename.ident.to_string(), Some(rename.rename.to_string()), private);
            }
            UseTree::Glob(_) => {
                let path = prefix.clone();
                self.scope().globs.push(path);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(prefix, tree, private)),
        }
    }

    fn imported(&mut self, prefix: &Names, name: String, alias: Option<String>, private: bool) {
        let mut path = prefix.clone();
        if name != "self" {
            path.push(name);
        }
        let alias = alias.or_else(|| path.last().cloned()).unwrap_or_default();
        let scope = self.scope();
        if private {
            scope.uses.push(path.clone());
        }
        // `use name;` imports a crate.
        let whole = if path.len() == 1 { vec![String::new(), path[0].clone()] } else { path.clone() };
        scope.paths.insert(whole);
        scope.imports.entry(alias).or_insert(path);
    }

    fn changed(&mut self, names: Names) {
        let names = if names == ["Self"] { self.own.clone().unwrap_or_default() } else { names };
        if !names.is_empty() {
            self.scope().changes.insert(names);
        }
    }

    fn walk(&mut self, input: ParseStream) -> syn::Result<()> {
        input.step(|cursor| {
            self.tokens(*cursor);
            let mut rest = *cursor;
            while let Some((_, next)) = rest.token_tree() {
                rest = next;
            }
            Ok(((), rest))
        })
    }

    fn tokens(&mut self, mut cursor: Cursor) {
        let mut path: Names = Vec::new();
        let mut colons = 0;
        let mut member = false;
        while !cursor.eof() {
            if let Some((ident, next)) = cursor.ident() {
                if colons != 2 {
                    self.named(&mut path);
                }
                if !member {
                    path.push(ident.to_string());
                }
                (colons, member, cursor) = (0, false, next);
            } else if let Some((punct, next)) = cursor.punct() {
                let sign = punct.as_char();
                colons = if sign == ':' && !path.is_empty() { colons + 1 } else { 0 };
                if colons == 0 {
                    self.named(&mut path);
                }
                member = sign == '.';
                cursor = next;
            } else {
                self.named(&mut path);
                (colons, member) = (0, false);
                if let Some((literal, next)) = cursor.literal() {
                    if let syn::Lit::Str(text) = syn::Lit::new(literal) {
                        self.facts.strings.push(text.value());
                    }
                    cursor = next;
                } else if let Some((inside, _, _, next)) = cursor.any_group() {
                    self.tokens(inside);
                    cursor = next;
                } else if let Some((_, next)) = cursor.token_tree() {
                    cursor = next;
                }
            }
        }
        self.named(&mut path);
    }

    fn named(&mut self, path: &mut Names) {
        if !path.is_empty() {
            let path = std::mem::take(path);
            self.scope().paths.insert(path);
        }
    }

    fn signature(&mut self, signature: &syn::Signature) {
        for input in &signature.inputs {
            let kind = match input {
                FnArg::Receiver(receiver) => &receiver.ty,
                FnArg::Typed(typed) => &typed.ty,
            };
            if let Some(names) = behind_mut(kind) {
                self.changed(names);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Extractor {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            return;
        }
        if let Some(name) = name(item) {
            self.scope().items.insert(name);
        }
        match item {
            Item::Mod(module) if module.content.is_some() => {
                let mut inner = self.scope().inner.clone();
                inner.push(module.ident.to_string());
                self.facts.scopes.push(Scope { inner, ..Scope::default() });
                let outer = std::mem::replace(&mut self.current, self.facts.scopes.len() - 1);
                visit::visit_item(self, item);
                self.current = outer;
            }
            Item::Impl(block) => {
                let own = self.own.replace(named_type(&block.self_ty).unwrap_or_default());
                visit::visit_item(self, item);
                self.own = own;
            }
            Item::Struct(record) => {
                let field = |field: &syn::Field| Field {
                    visible: !matches!(field.vis, Visibility::Inherited),
                    types: held(&field.ty),
                };
                let fields = record.fields.iter().map(field).collect();
                self.scope().structs.insert(record.ident.to_string(), fields);
                visit::visit_item(self, item);
            }
            // A trait's own methods belong to the types that have the trait.
            Item::Trait(_) => {
                let own = self.own.take();
                visit::visit_item(self, item);
                self.own = own;
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        match item {
            syn::ImplItem::Fn(function) if is_test(&function.attrs) => {}
            _ => visit::visit_impl_item(self, item),
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.signature(&function.sig);
        let own = self.own.take();
        visit::visit_item_fn(self, function);
        self.own = own;
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.signature(&function.sig);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut prefix = if item.leading_colon.is_some() { vec![String::new()] } else { Vec::new() };
        self.import(&mut prefix, &item.tree, matches!(item.vis, Visibility::Inherited));
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = names(path);
        self.scope().paths.insert(names);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let names = names(&call.path);
        self.scope().paths.insert(names);
        let _ = call.parse_body_with(|input: ParseStream| self.walk(input));
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let messages = ["error", "arg", "command", "clap", "value"];
        if messages.iter().any(|name| attribute.path().is_ident(name))
            && let syn::Meta::List(list) = &attribute.meta
        {
            let _ = list.parse_args_with(|input: ParseStream| self.walk(input));
        }
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.facts.strings.push(text.value());
    }
}

fn names(path: &syn::Path) -> Names {
    let leading = path.leading_colon.as_ref().map(|_| String::new());
    leading.into_iter().chain(path.segments.iter().map(|segment| segment.ident.to_string())).collect()
}

/// Returns whether attributes leave their item to tests.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test"
                || condition.starts_with("any") && condition.contains("test")
                || condition.starts_with("all") && condition.contains("test") && !condition.contains("not")
        }
        syn::Meta::Path(path) => path.segments.last().is_some_and(|last| last.ident == "test"),
        _ => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

fn named_type(kind: &Type) -> Option<Names> {
    match kind {
        Type::Path(path) if path.qself.is_none() => Some(names(&path.path)),
        Type::Reference(reference) => named_type(&reference.elem),
        Type::Paren(inner) => named_type(&inner.elem),
        Type::Group(inner) => named_type(&inner.elem),
        _ => None,
    }
}

/// Returns the target type of a `&mut`, also one in an `Option` or a `Pin`.
fn behind_mut(kind: &Type) -> Option<Names> {
    match kind {
        Type::Reference(reference) if reference.mutability.is_some() => named_type(&reference.elem),
        Type::Path(path)
            if path.path.segments.last().is_some_and(|last| last.ident == "Option" || last.ident == "Pin") =>
        {
            arguments(path).into_iter().find_map(behind_mut)
        }
        _ => None,
    }
}

fn arguments(path: &syn::TypePath) -> Vec<&Type> {
    let Some(last) = path.path.segments.last() else { return Vec::new() };
    let syn::PathArguments::AngleBracketed(list) = &last.arguments else { return Vec::new() };
    list.args
        .iter()
        .filter_map(|argument| match argument {
            syn::GenericArgument::Type(kind) => Some(kind),
            _ => None,
        })
        .collect()
}

/// Returns the types that a field holds one of: itself, or what is in its box, lock or option.
fn held(kind: &Type) -> Vec<Names> {
    const WRAPPERS: [&str; 8] = ["Option", "Box", "Mutex", "RwLock", "RefCell", "Cell", "Arc", "Rc"];
    match kind {
        Type::Path(path) => {
            let wraps = path.path.segments.last().is_some_and(|last| WRAPPERS.iter().any(|name| last.ident == name));
            if wraps { arguments(path).into_iter().flat_map(held).collect() } else { vec![names(&path.path)] }
        }
        Type::Tuple(tuple) => tuple.elems.iter().flat_map(held).collect(),
        _ => Vec::new(),
    }
}
