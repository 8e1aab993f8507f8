//! From trees and facts to the tasks of a node: trees -> [`ObjectSet`](objects::ObjectSet) ->
//! [`NodeView`](view::NodeView) -> plan.
//!
//! The crate is pure: it uses no files, no clock and no network. It is the only crate that parses YAML and templates.
//! It knows neither the effect of a module, nor other nodes, nor the origin of a tree.

pub mod document;
pub mod objects;
pub mod problem;
pub mod rendering;
pub mod taint;
pub mod template;
pub mod tree;
pub mod view;
pub mod words;
mod work;
