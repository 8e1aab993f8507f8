//! Renders the tasks of a node from files and facts. The crate loads file trees into an
//! [`ObjectSet`](objects::ObjectSet). From the object set, the crate computes a [`NodeView`](view::NodeView) for each
//! node.
//!
//! The crate is pure: it uses no files, no clock and no network. Only this crate parses YAML and templates. The crate
//! does not know the effect of a module, the origin of a file tree, or the state of other nodes.

pub mod document;
pub mod objects;
mod order;
pub mod problem;
pub mod rendering;
pub mod scalars;
pub mod taint;
pub mod template;
pub mod tree;
pub mod view;
mod work;
