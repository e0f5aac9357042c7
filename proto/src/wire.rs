//! The messages, the client and the server, as generated from the contract. Nothing here is checked: only
//! [`crate::convert`] makes domain values of it.

#![expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

tonic::include_proto!("aya.agent.v1");
