//! Generates Rust source from the protobuf option `module` of a message. The option `module` contains the properties of
//! a module, such as its kind.
//!
//! The build fails if an option contradicts the schema, or if a module of the kind `state` omits a required option.

use std::error::Error;

use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _, Value};

use super::PACKAGE;

/// The Rust source that the build script generates for one module.
pub(super) struct Module {
    /// The name of the generated constant that describes the module.
    pub(super) constant: String,
    /// The Rust source of the constant, and of the module's implementation of the trait `ModuleMessage`.
    pub(super) source: String,
}

/// Returns the generated Rust source for a module; `None` if the message is not a module.
pub(super) fn of(
    message: &MessageDescriptor,
    index: usize,
    pool: &DescriptorPool,
) -> Result<Option<Module>, Box<dyn Error>> {
    let wrong = |what: &str| format!("{}: option (module): {what}", message.full_name());
    let extension = pool
        .all_extensions()
        .find(|extension| {
            extension.name() == "module" && extension.containing_message() == message.options().descriptor()
        })
        .ok_or("options.proto has no option module")?;
    let options = message.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    let Value::Message(facts) = options.get_extension(&extension).into_owned() else {
        return Err(wrong("it is not a message").into());
    };
    let task = pool.get_message_by_name(&format!("{PACKAGE}.Task")).ok_or("there is no message Task")?;
    let key = task
        .fields()
        .find(|field| !field.is_list() && matches!(field.kind(), Kind::Message(of) if of == *message))
        .ok_or_else(|| wrong("no field of Task has this message"))?;
    let kind = match text(&facts, "kind").as_deref() {
        Some("state") => "State",
        Some("probe") => "Probe",
        Some("action") => "Action",
        _ => return Err(wrong("kind is one of: state, probe, action").into()),
    };
    let given = |name: &str| {
        facts.get_field_by_name(name).filter(|_| facts.has_field_by_name(name)).map(std::borrow::Cow::into_owned)
    };
    // A missing fact would silently become false or 0. Then a change would need no slot, or a resource would be removed
    // too early.
    if kind != "Probe" && given("interrupts").is_none() {
        return Err(wrong("a module that changes something has interrupts: true or false").into());
    }
    for name in ["applies_directly", "removal", "identity"] {
        if kind == "State" && given(name).is_none() {
            return Err(wrong(&format!("a state has {name}")).into());
        }
    }
    let flag = |name: &str| given(name).and_then(|value| value.as_bool()).unwrap_or(false);
    let removal = given("removal").and_then(|value| value.as_u32()).unwrap_or_default();
    let identity = text(&facts, "identity").map(|template| parts(&template, message)).transpose();
    let identity = identity.map_err(|what| wrong(&what))?.unwrap_or_else(|| "&[]".into());
    let service = match text(&facts, "service").as_deref() {
        None => "None",
        Some("runs") => "Some(ServiceRole::Runs)",
        Some("defines") => "Some(ServiceRole::Defines)",
        Some("installs") => "Some(ServiceRole::Installs)",
        Some(_) => return Err(wrong("service is one of: runs, defines, installs").into()),
    };
    let constant = format!("MODULE_{}", message.name().to_ascii_uppercase());
    let source = format!(
        "static {constant}: ModuleSchema = ModuleSchema {{ key: {:?}, message: &MESSAGES[{index}], \
         kind: ModuleKind::{kind}, interrupts: {}, applies_directly: {}, removal: {removal}, service: {service}, \
         computes: {}, reboots: {}, runs_source: {}, keeps_originals: {}, shows_message: {}, \
         repeatable: {}, governs_commands: {}, identity: {identity} }};\n\
         impl ModuleMessage for crate::v1alpha::{} {{\n\
         fn module() -> &'static ModuleSchema {{ &{constant} }}\n}}\n",
        key.json_name(),
        flag("interrupts"),
        flag("applies_directly"),
        flag("computes"),
        flag("reboots"),
        flag("runs_source"),
        flag("keeps_originals"),
        flag("shows_message"),
        flag("repeatable"),
        flag("governs_commands"),
        message.name(),
    );
    Ok(Some(Module { constant, source }))
}

fn text(facts: &DynamicMessage, name: &str) -> Option<String> {
    match facts.get_field_by_name(name)?.into_owned() {
        Value::String(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Returns the value of the protobuf option `untrusted` of a field, as Rust source of an `Option<Untrusted>`.
pub(super) fn untrusted(option: &str, field: &str) -> Result<&'static str, Box<dyn Error>> {
    Ok(match option {
        "None" => "None",
        "Some(\"refused\")" => "Some(Untrusted::Refused)",
        "Some(\"allowed\")" => "Some(Untrusted::Allowed)",
        "Some(\"values\")" => "Some(Untrusted::Values)",
        "Some(\"arguments\")" => "Some(Untrusted::Arguments)",
        _ => {
            return Err(format!("{field}: option (untrusted) is one of: refused, allowed, values, arguments").into());
        }
    })
}

/// Parses an identity template, such as `{path}: {key}`. Returns the Rust source of a slice of `Part`.
fn parts(template: &str, message: &MessageDescriptor) -> Result<String, String> {
    let mut found = String::new();
    let mut rest = template;
    while let Some(next) = rest.chars().next() {
        match next {
            '{' => {
                let (value, after) = rest[1..].split_once('}').ok_or("identity: a { has no }")?;
                found.push_str(&value_part(value, message)?);
                rest = after;
            }
            '[' => {
                let (inner, after) = rest[1..].split_once(']').ok_or("identity: a [ has no ]")?;
                found.push_str(&format!("Part::Optional({}), ", parts(inner, message)?));
                rest = after;
            }
            _ => {
                let end = rest.find(['{', '[']).unwrap_or(rest.len());
                found.push_str(&format!("Part::Text({:?}), ", &rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    Ok(format!("&[{found}]"))
}

/// Returns the part for the template text `FIELD|FIELD|'TEXT':FORM`, as Rust source.
fn value_part(value: &str, message: &MessageDescriptor) -> Result<String, String> {
    let (names, form) = value.split_once(':').unwrap_or((value, ""));
    let form = match form {
        "" => "Plain",
        "path" => "Path",
        "unit" => "Unit",
        "dropIn" => "DropIn",
        "sshKey" => "SshKey",
        other => return Err(format!("identity: there is no form {other:?}")),
    };
    let (mut fields, mut otherwise) = (Vec::new(), None);
    for name in names.split('|') {
        match name.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
            Some(text) => otherwise = Some(text),
            None if message.fields().any(|field| field.json_name() == name) => fields.push(name),
            None => return Err(format!("identity: there is no field {name:?}")),
        }
    }
    Ok(format!("Part::Value {{ fields: &{fields:?}, form: Form::{form}, otherwise: {otherwise:?} }}, "))
}
