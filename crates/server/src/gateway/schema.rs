//! What the gateway knows of messages: names, numbers and kinds of their fields, out of the descriptors that the
//! `.proto` files were compiled to. Nothing here names a message.

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The descriptors of `quorate-proto`.
pub static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // Compiled in: what can be read once can be read always, and a test reads it.
    let files = FileDescriptorSet::decode(quorate_proto::FILE_DESCRIPTOR_SET).unwrap_or_default();
    Schema::new(&files)
});

/// Place of a message in the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageId(usize);

/// All messages and methods.
pub struct Schema {
    messages: Vec<Message>,
    methods: HashMap<String, Method>,
}

/// A method's messages.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// What is asked.
    pub request: MessageId,
    /// What is answered.
    pub answer: MessageId,
    /// Whether many messages are sent there.
    pub client_streams: bool,
    /// Whether many messages come back.
    pub server_streams: bool,
}

/// A message.
pub struct Message {
    /// In the order of their declaration.
    pub fields: Vec<Field>,
}

/// A field.
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in the `.proto` file.
    pub name: String,
    /// Its name in camel case.
    pub json_name: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether there are many of it.
    pub repeated: bool,
    /// Whether it is sent also if it is zero, because it is one of several.
    pub presence: bool,
}

/// What a field holds.
pub enum Kind {
    /// `bool`
    Bool,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `uint32`
    Uint32,
    /// `uint64`
    Uint64,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// A number with a name.
    Enum(Enum),
    /// A message within the message.
    Message(MessageId),
}

/// An enumeration.
pub struct Enum {
    /// Its full name.
    pub name: String,
    values: Vec<(String, i32)>,
}

impl Enum {
    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, number)| *number)
    }

    /// The first name of a number.
    pub fn value_name(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(_, known)| *known == number).map(|(name, _)| name.as_str())
    }
}

impl Message {
    /// The field of a number.
    pub fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

impl Schema {
    fn new(files: &FileDescriptorSet) -> Self {
        let mut types = Types::default();
        for file in &files.file {
            let package = format!(".{}", file.package());
            types.add(&package, &file.message_type, &file.enum_type);
        }
        let messages = types.messages.iter().map(|descriptor| types.message(descriptor)).collect();
        let mut methods = HashMap::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let ids = (types.ids.get(method.input_type()), types.ids.get(method.output_type()));
                    if let (Some(&request), Some(&answer)) = ids {
                        let (client_streams, server_streams) = (method.client_streaming(), method.server_streaming());
                        methods.insert(path, Method { request, answer, client_streams, server_streams });
                    }
                }
            }
        }
        Self { messages, methods }
    }

    /// The method that a gRPC path names.
    pub fn method(&self, path: &str) -> Option<Method> {
        self.methods.get(path).copied()
    }

    /// All gRPC paths.
    #[cfg(test)]
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    /// A message.
    pub fn message(&self, id: MessageId) -> &Message {
        &self.messages[id.0]
    }
}

/// Collects names first, since messages name each other.
#[derive(Default)]
struct Types<'a> {
    messages: Vec<&'a DescriptorProto>,
    ids: HashMap<String, MessageId>,
    enums: HashMap<String, &'a EnumDescriptorProto>,
}

impl<'a> Types<'a> {
    fn add(&mut self, scope: &str, messages: &'a [DescriptorProto], enums: &'a [EnumDescriptorProto]) {
        for message in messages {
            let name = format!("{scope}.{}", message.name());
            self.ids.insert(name.clone(), MessageId(self.messages.len()));
            self.messages.push(message);
            self.add(&name, &message.nested_type, &message.enum_type);
        }
        self.enums.extend(enums.iter().map(|found| (format!("{scope}.{}", found.name()), found)));
    }

    fn message(&self, descriptor: &DescriptorProto) -> Message {
        Message { fields: descriptor.field.iter().filter_map(|field| self.field(field)).collect() }
    }

    /// `None` for kinds that the API does not have; a test says that none is left out.
    fn field(&self, field: &FieldDescriptorProto) -> Option<Field> {
        let kind = match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum => {
                let descriptor = self.enums.get(field.type_name())?;
                let values = descriptor.value.iter().map(|value| (value.name().to_owned(), value.number()));
                Kind::Enum(Enum { name: field.type_name()[1..].to_owned(), values: values.collect() })
            }
            Type::Message => Kind::Message(*self.ids.get(field.type_name())?),
            Type::Double
            | Type::Float
            | Type::Fixed64
            | Type::Fixed32
            | Type::Group
            | Type::Sfixed32
            | Type::Sfixed64
            | Type::Sint32
            | Type::Sint64 => return None,
        };
        Some(Field {
            number: u32::try_from(field.number()).ok()?,
            name: field.name().to_owned(),
            json_name: field.json_name().to_owned(),
            kind,
            repeated: field.label() == Label::Repeated,
            presence: field.oneof_index.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_api_is_left_out() {
        let files = FileDescriptorSet::decode(quorate_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut types = Types::default();
        for file in &files.file {
            types.add(&format!(".{}", file.package()), &file.message_type, &file.enum_type);
        }
        // What members say to each other has no gateway, and kinds of its own.
        for (name, id) in types.ids.iter().filter(|(name, _)| !name.starts_with(".quorate.peer.")) {
            let descriptor = types.messages[id.0];
            assert_eq!(SCHEMA.message(*id).fields.len(), descriptor.field.len(), "{name}");
        }
        let range = SCHEMA.method("/etcdserverpb.KV/Range").unwrap();
        let names: Vec<_> = SCHEMA.message(range.request).fields.iter().map(|field| field.json_name.as_str()).collect();
        assert_eq!(&names[..3], ["key", "rangeEnd", "limit"]);
    }
}
