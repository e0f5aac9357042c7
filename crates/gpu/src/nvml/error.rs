//! The wrapper's errors in our words.

use nvml_wrapper::error::NvmlError;

use crate::{CallError, GpuError};

/// Codes that the wrapper has no names for.
const FREQUENCY_NOT_SUPPORTED: u32 = 24;
const ARGUMENT_VERSION_MISMATCH: u32 = 25;
const DEPRECATED: u32 = 26;
const GPU_NOT_FOUND: u32 = 28;

/// What an error means for whoever has to act on it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told in the driver's own words")]
pub(super) fn named(error: &NvmlError) -> GpuError {
    match error {
        NvmlError::LibloadingError(e) => GpuError::NoLibrary(e.to_string()),
        NvmlError::LibraryNotFound => GpuError::NoLibrary(error.to_string()),
        NvmlError::FailedToLoadSymbol(symbol) => GpuError::OldLibrary(symbol.clone()),
        NvmlError::FunctionNotFound => GpuError::OldLibrary(error.to_string()),
        NvmlError::DriverNotLoaded | NvmlError::Uninitialized => GpuError::DriverNotLoaded,
        NvmlError::LibRmVersionMismatch => GpuError::VersionMismatch,
        NvmlError::NoPermission | NvmlError::OperatingSystem => GpuError::NoPermission,
        NvmlError::GpuLost | NvmlError::UnexpectedVariant(GPU_NOT_FOUND) => GpuError::Lost,
        NvmlError::ResetRequired => GpuError::ResetRequired,
        NvmlError::UnexpectedVariant(ARGUMENT_VERSION_MISMATCH) => {
            GpuError::OldLibrary("it knows another version of a struct".to_owned())
        }
        NvmlError::UnexpectedVariant(code) => GpuError::Other(unnamed(*code)),
        other => GpuError::Other(other.to_string()),
    }
}

/// The kind of failure that is counted.
pub(super) fn class(error: &NvmlError) -> CallError {
    match (error, named(error)) {
        (NvmlError::NotSupported | NvmlError::UnexpectedVariant(FREQUENCY_NOT_SUPPORTED | DEPRECATED), _) => {
            CallError::NotSupported
        }
        (NvmlError::Timeout, _) => CallError::Timeout,
        (_, GpuError::NoPermission) => CallError::NoPermission,
        (_, GpuError::Lost) => CallError::Lost,
        (_, GpuError::ResetRequired) => CallError::ResetRequired,
        (_, GpuError::NoLibrary(_) | GpuError::OldLibrary(_)) => CallError::Library,
        (_, GpuError::DriverNotLoaded | GpuError::VersionMismatch) => CallError::Driver,
        _ => CallError::Other,
    }
}

/// Whether asking again is useless as long as this driver runs.
pub(super) fn is_final(error: &NvmlError) -> bool {
    let never = matches!(
        error,
        NvmlError::NotSupported | NvmlError::UnexpectedVariant(FREQUENCY_NOT_SUPPORTED | DEPRECATED)
    );
    never || matches!(named(error), GpuError::OldLibrary(_) | GpuError::NoPermission)
}

/// Whether the GPU itself is what failed.
pub(super) const fn is_of_the_gpu(error: &GpuError) -> bool {
    matches!(error, GpuError::Lost | GpuError::ResetRequired | GpuError::DriverNotLoaded)
}

/// The codes of newer libraries, from 23 on.
fn unnamed(code: u32) -> String {
    let text = match code {
        23 => "insufficient resources",
        FREQUENCY_NOT_SUPPORTED => "the clock is not supported",
        DEPRECATED => "the function is deprecated",
        27 => "not ready",
        29 => "invalid state",
        30 => "the reset is not supported",
        _ => return format!("error {code}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_an_operator_treats_differently_stay_apart() {
        for (error, expect) in [
            (NvmlError::DriverNotLoaded, GpuError::DriverNotLoaded),
            (NvmlError::LibRmVersionMismatch, GpuError::VersionMismatch),
            (NvmlError::GpuLost, GpuError::Lost),
            (NvmlError::UnexpectedVariant(28), GpuError::Lost),
            (NvmlError::ResetRequired, GpuError::ResetRequired),
            (NvmlError::NoPermission, GpuError::NoPermission),
            (NvmlError::FailedToLoadSymbol("f".into()), GpuError::OldLibrary("f".into())),
            (NvmlError::UnexpectedVariant(27), GpuError::Other("not ready".into())),
            (NvmlError::UnexpectedVariant(77), GpuError::Other("error 77".into())),
        ] {
            assert_eq!(named(&error), expect);
        }
    }

    #[test]
    fn failures_are_counted_by_what_an_operator_does_about_them() {
        for (error, expect) in [
            (NvmlError::NotSupported, CallError::NotSupported),
            (NvmlError::UnexpectedVariant(26), CallError::NotSupported),
            (NvmlError::NoPermission, CallError::NoPermission),
            (NvmlError::GpuLost, CallError::Lost),
            (NvmlError::UnexpectedVariant(28), CallError::Lost),
            (NvmlError::ResetRequired, CallError::ResetRequired),
            (NvmlError::Timeout, CallError::Timeout),
            (NvmlError::FailedToLoadSymbol("f".into()), CallError::Library),
            (NvmlError::LibRmVersionMismatch, CallError::Driver),
            (NvmlError::Uninitialized, CallError::Driver),
            (NvmlError::Unknown, CallError::Other),
        ] {
            assert_eq!(class(&error), expect, "{error:?}");
        }
    }

    #[test]
    fn what_will_never_come_is_told_from_what_did_not_come_now() {
        for (error, expect) in [
            (NvmlError::NotSupported, true),
            (NvmlError::NoPermission, true),
            (NvmlError::FunctionNotFound, true),
            (NvmlError::UnexpectedVariant(25), true),
            (NvmlError::UnexpectedVariant(26), true),
            (NvmlError::UnexpectedVariant(23), false),
            (NvmlError::UnexpectedVariant(27), false),
            (NvmlError::Unknown, false),
            (NvmlError::GpuLost, false),
        ] {
            assert_eq!(is_final(&error), expect, "{error:?}");
        }
    }
}
