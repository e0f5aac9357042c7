//! Stories of a farm, told in milliseconds; and what holds whatever happens.

mod breaker;
mod catalogue;
mod farm;
mod gpu_events;
mod health;
mod learning;
mod load;
mod membership;
mod properties;
