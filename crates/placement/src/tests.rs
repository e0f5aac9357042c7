//! The promises of a decision, each as a property over random farms.

mod burst;
mod farms;
mod hostile;
mod monotone;
mod oracle;
mod order;
mod promises;
