//! The exported functions, by subject. Each is a few lines over the scenario; what they share is in `state`.

/// Defines exports and lists their names, so that a scenario can be checked against them.
macro_rules! exports {
    ($($name:ident($($arg:ident: $type:ty),* $(,)?) = |$driver:pat_param| $work:expr;)*) => {
        /// What this file exports.
        pub(super) const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[doc = concat!("NVML's `", stringify!($name), "`.")]
            #[unsafe(no_mangle)]
            pub(crate) extern "C" fn $name($($arg: $type),*) -> nvml_wrapper_sys::bindings::nvmlReturn_t {
                crate::state::call(stringify!($name), |$driver| $work)
            }
        )*
    };
}

mod events;
mod fields;
mod gpm;
mod identity;
mod mig;
mod processes;
mod readings;
mod system;

/// The names of all exports, by file.
pub const EXPORTS: &[&[&str]] = &[
    events::NAMES,
    fields::NAMES,
    gpm::NAMES,
    identity::NAMES,
    mig::NAMES,
    processes::NAMES,
    readings::NAMES,
    system::NAMES,
];
