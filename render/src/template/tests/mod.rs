//! Tests of templates with hostile and with tainted values.

mod limits;
mod taint;
