//! Renders the tasks of a node from files and facts. File trees become an [`ObjectSet`](objects::ObjectSet), then a
//! [`NodeView`](view::NodeView), then a plan.
//!
//! The crate is pure: it uses no files, no clock and no network. Only this crate parses YAML and templates. The crate
//! does not know the effect of a module, other nodes, or the origin of a file tree.

pub mod document;
pub mod objects;
mod order;
pub mod problem;
pub mod rendering;
pub mod taint;
pub mod template;
pub mod tree;
pub mod view;
pub mod words;
mod work;
