//! Trees and facts to what a node must do: trees -> [`ObjectSet`](objects::ObjectSet) -> [`NodeView`](view::NodeView) -> plan.
//!
//! Pure: no file, no clock, no network. The only place that knows YAML and templates. It does not know what a
//! module does, who else is in the fleet, or where a tree comes from.

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
