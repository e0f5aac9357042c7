//! Holds that the contract only grows: agents and schedulers of different versions talk to each other.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// The contract as it was last accepted.
const ACCEPTED: &str = include_str!("../contract.txt");

/// One line per field, enum value and method.
fn listing() -> BTreeSet<String> {
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contract.bin"));
    let set = FileDescriptorSet::decode(bytes).unwrap();
    let mut lines = BTreeSet::new();
    for file in &set.file {
        let package = file.package();
        for message in &file.message_type {
            add_message(package, message, &mut lines);
        }
        for list in &file.enum_type {
            for value in &list.value {
                lines.insert(format!("{package}.{} {} {}", list.name(), value.number(), value.name()));
            }
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                lines.insert(format!(
                    "{package}.{} rpc {}({}{}) returns ({}{})",
                    service.name(),
                    method.name(),
                    stream(method.client_streaming()),
                    method.input_type(),
                    stream(method.server_streaming()),
                    method.output_type(),
                ));
            }
        }
    }
    lines
}

fn add_message(parent: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let name = format!("{parent}.{}", message.name());
    lines.insert(format!("{name} message"));
    for field in &message.field {
        lines.insert(format!("{name} {} {}", field.number(), describe(message, field)));
    }
    for nested in &message.nested_type {
        add_message(&name, nested, lines);
    }
}

fn describe(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let presence = match (field.label(), field.proto3_optional(), field.oneof_index) {
        (Label::Repeated, ..) => "repeated".to_owned(),
        (_, true, _) => "optional".to_owned(),
        (_, false, Some(at)) => format!("oneof {}", message.oneof_decl[usize::try_from(at).unwrap()].name()),
        (_, false, None) if field.r#type() == Type::Message => "optional".to_owned(),
        (_, false, None) => "implicit".to_owned(),
    };
    let named = matches!(field.r#type(), Type::Message | Type::Enum);
    let kind = if named { field.type_name() } else { field.r#type().as_str_name() };
    format!("{presence} {kind} {}", field.name())
}

#[test]
fn no_field_value_or_method_of_the_contract_changed_or_disappeared() {
    let now = listing();
    let lost: Vec<_> = ACCEPTED.lines().filter(|line| !line.is_empty() && !now.contains(*line)).collect();
    assert!(
        lost.is_empty(),
        "other versions still speak what is gone or changed:\n{}\nAdd fields under new numbers instead.",
        lost.join("\n")
    );
}

#[test]
fn the_accepted_contract_names_every_field() {
    let now: Vec<_> = listing().into_iter().collect();
    let accepted: Vec<_> = ACCEPTED.lines().filter(|line| !line.is_empty()).collect();
    assert!(now == accepted, "the contract grew; proto/contract.txt has to read:\n{}", now.join("\n"));
}

#[test]
fn every_scalar_can_be_absent() {
    let implicit: Vec<_> = listing().into_iter().filter(|line| line.contains(" implicit ")).collect();
    assert!(implicit.is_empty(), "absent must not read as 0: {implicit:?}");
}
