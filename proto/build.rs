//! The build script that generates Rust code from `towpath/v1alpha/*.proto`.
//!
//! The crates prost and tonic generate the Rust types of messages and services. The build script also generates a
//! static table of all messages and fields, with their names, types, comments and options. The static table is the
//! input for the checks of YAML documents, for the JSON Schema and for `towpath explain`.

#[path = "build/module.rs"]
mod module;

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost::Message as _;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, ReflectMessage, Value};

const FILES: [&str; 6] = ["options", "values", "modules", "tasks", "objects", "services"];
const PACKAGE: &str = "towpath.v1alpha";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=towpath");
    println!("cargo:rerun-if-changed=build");
    #[expect(clippy::disallowed_methods, reason = "this is how cargo speaks to build scripts")]
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let set = out.join("descriptors.bin");
    let files: Vec<String> = FILES.iter().map(|name| format!("towpath/v1alpha/{name}.proto")).collect();
    tonic_prost_build::configure()
        .file_descriptor_set_path(&set)
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".", "#[serde(rename_all = \"camelCase\", default, deny_unknown_fields)]")
        .field_attribute("EventRecord.data", "#[serde(with = \"crate::plain\")]")
        .compile_protos(&files, &[".".to_owned()])
        .map_err(|error| format!("{error}\n(protoc is needed to build: install the package protobuf-compiler)"))?;
    let pool = DescriptorPool::decode(fs::read(&set)?.as_slice())?;
    fs::write(out.join("schema.rs"), table(&pool)?)?;
    // gRPC reflection needs only names and types. The comments are the larger part, and the table already contains
    // them.
    let mut bare = prost_types::FileDescriptorSet::decode(fs::read(&set)?.as_slice())?;
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    fs::write(&set, bare.encode_to_vec())?;
    Ok(())
}

/// Returns the Rust source of the static table of messages.
fn table(pool: &DescriptorPool) -> Result<String, Box<dyn Error>> {
    let mut messages: Vec<_> =
        pool.all_messages().filter(|m| m.package_name() == PACKAGE && !m.is_map_entry()).collect();
    messages.sort_by(|a, b| a.name().cmp(b.name()));
    let mut text = format!("pub(crate) static MESSAGES: [Message; {}] = [\n", messages.len());
    let mut modules = String::new();
    for (index, message) in messages.iter().enumerate() {
        let options = message.options();
        let module = module::of(message, index, pool)?;
        writeln!(
            text,
            "Message {{ name: {:?}, doc: {:?}, scope: {}, module: {}, example: {}, fields: &[",
            message.name(),
            comment(&message.parent_file(), message.path())?,
            option(&options, pool, "scope"),
            module.as_ref().map_or("None".to_owned(), |module| format!("Some(&{})", module.constant)),
            option(&options, pool, "example"),
        )?;
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        for field in fields {
            write_field(&mut text, pool, &field)?;
        }
        text.push_str("] },\n");
        modules.extend(module.map(|module| module.source));
    }
    text.push_str("];\n");
    text.push_str(&modules);
    Ok(text)
}

fn write_field(text: &mut String, pool: &DescriptorPool, field: &FieldDescriptor) -> Result<(), Box<dyn Error>> {
    let options = field.options();
    let flag = |name: &str| {
        pool.get_extension_by_name(&format!("{PACKAGE}.{name}"))
            .is_some_and(|extension| options.get_extension(&extension).as_bool().unwrap_or(false))
    };
    writeln!(
        text,
        "Field {{ name: {:?}, doc: {:?}, shape: {}, words: {}, format: {}, required: {}, refers: {}, otherwise: {}, runs_command: {}, waits_for_nodes: {}, untrusted: {} }},",
        field.json_name(),
        comment(&field.parent_message().parent_file(), field.path())?,
        shape(field),
        option(&options, pool, "words"),
        option(&options, pool, "format"),
        flag("required"),
        option(&options, pool, "refers"),
        option(&options, pool, "otherwise"),
        flag("runs_command"),
        flag("waits_for_nodes"),
        module::untrusted(&option(&options, pool, "untrusted"), field.full_name())?,
    )?;
    Ok(())
}

fn shape(field: &FieldDescriptor) -> String {
    if field.is_map()
        && let Kind::Message(entry) = field.kind()
        && let Some(value) = entry.get_field_by_name("value")
    {
        return format!("Shape::Map({})", scalar(&value.kind()));
    }
    if field.is_list() {
        return format!("Shape::List({})", scalar(&field.kind()));
    }
    format!("Shape::One({})", scalar(&field.kind()))
}

fn scalar(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) if message.name() == "Value" => "Type::Any".into(),
        // In YAML, the values of one node are a plain map, without the field `values`.
        Kind::Message(message) if message.name() == "ValueMapSpec" => "Type::AnyMap".into(),
        Kind::Message(message) => format!("Type::Message({:?})", message.name()),
        Kind::Bool => "Type::Bool".into(),
        Kind::String => "Type::String".into(),
        Kind::Double | Kind::Float => "Type::Number".into(),
        Kind::Bytes => "Type::Bytes".into(),
        _ => "Type::Integer".into(),
    }
}

/// Returns the value of a protobuf string option, as Rust source of an `Option<&str>`.
fn option(options: &prost_reflect::DynamicMessage, pool: &DescriptorPool, name: &str) -> String {
    // Options of messages and options of fields are different extensions with the same name. Only the extension for
    // this descriptor is read.
    let value = pool
        .all_extensions()
        .filter(|extension| extension.name() == name && extension.containing_message() == options.descriptor())
        .map(|extension| options.get_extension(&extension).into_owned())
        .find_map(|value| match value {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => None,
        });
    format!("{value:?}")
}

/// Returns the comment above a message or a field. The build fails if the comment is missing.
fn comment(file: &prost_reflect::FileDescriptor, path: &[i32]) -> Result<String, Box<dyn Error>> {
    let proto = file.file_descriptor_proto();
    let found = proto
        .source_code_info
        .iter()
        .flat_map(|info| &info.location)
        .find(|location| location.path == path)
        .and_then(|location| location.leading_comments.clone())
        .map(|text| text.trim().replace("\n ", "\n"));
    found.ok_or_else(|| format!("{}: the message or field at {path:?} has no comment; add one", file.name()).into())
}
