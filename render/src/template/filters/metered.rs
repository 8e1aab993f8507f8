//! Adds template filters that charge fuel for their input and their output. Fuel is the engine's measure of work.

use minijinja::{
    Environment, Error, ErrorKind, State,
    functions::Function,
    value::{FunctionArgs, FunctionResult, Rest, Value, ValueOrKwargs},
};

use crate::template::{
    settings::OUTPUT,
    tainted::{self, Weight},
    trace,
};

/// The number of bytes that a filter reads or creates for one unit of fuel, the same number as in the engine.
const BYTES_PER_FUEL: u64 = 64;

/// Charges the fuel for bytes that a filter reads or creates.
///
/// # Errors
/// Returns an error if the rendering has no fuel left.
pub(in crate::template) fn charge(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(u64::try_from(bytes).unwrap_or(u64::MAX) / BYTES_PER_FUEL + 1)
}

/// Creates the error of a filter.
pub(in crate::template) fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Adds a filter that charges fuel for its arguments before the filter runs, and then for its result. The filter
/// rejects arguments that are nested too deep, or that are larger than the maximum output of a template.
pub(super) fn add<F, Rv, Args>(environment: &mut Environment<'static>, name: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let own = Value::from_function(filter);
    environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        for argument in &arguments {
            weigh(state, name, argument)?;
        }
        let result = own.call(state, &arguments)?;
        // The engine itself charges fuel for text that a filter returns.
        if result.as_object().is_some() {
            weigh(state, name, &result)?;
        }
        Ok::<Value, Error>(result)
    });
}

/// Charges the fuel for the conversion of a value to text. The caller converts the value to text after this function
/// has charged the fuel. The engine charges fuel only after the conversion, but a list that repeats a long text can
/// exhaust the memory during the conversion.
pub(super) fn charge_text(state: &State<'_, '_>, what: &str, value: &Value) -> Result<(), Error> {
    if value.as_object().is_some() { weigh(state, what, value).map(drop) } else { Ok(()) }
}

/// Charges the fuel to read a value, and returns the size and the depth of the value.
pub(super) fn weigh(state: &State<'_, '_>, what: &str, value: &Value) -> Result<Weight, Error> {
    let weight = if value.as_object().is_none() {
        Weight { bytes: value.as_str().map_or(0, str::len), height: 0 }
    } else {
        // The measurement must not record reads of tainted parts. The filter itself records them when it runs.
        let (weight, _) = trace::traced(|| tainted::weight(value));
        weight.map_err(|why| wrong(format!("{what}: {why}")))?
    };
    charge(state, weight.bytes)?;
    Ok(weight)
}

/// A buffer that returns an error if it gets more bytes than the maximum output of a template.
#[derive(Default)]
pub(super) struct Bounded(Vec<u8>);

impl Bounded {
    /// Returns the bytes in the buffer as text.
    pub(super) fn text(self) -> Result<String, Error> {
        String::from_utf8(self.0).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT {
            return Err(std::io::Error::other(tainted::too_large()));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
