//! The few numbers and the rules of memory of NVML's C ABI.

use std::ffi::{CStr, c_char, c_uint};

use nvml_wrapper_sys::bindings as sys;

/// A refusal, by NVML's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub c_uint);

impl Code {
    pub const UNINITIALIZED: Self = Self(1);
    pub const INVALID_ARGUMENT: Self = Self(2);
    pub const NOT_SUPPORTED: Self = Self(3);
    pub const NOT_FOUND: Self = Self(6);
    pub const INSUFFICIENT_SIZE: Self = Self(7);
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    pub const TIMEOUT: Self = Self(10);
    pub const GPU_IS_LOST: Self = Self(15);
    /// The caller's struct is of another version than the library knows.
    pub const ARGUMENT_VERSION_MISMATCH: Self = Self(25);
    pub const GPU_NOT_FOUND: Self = Self(28);
}

/// What a call comes to.
pub type Answer = Result<(), Code>;

/// The answer as the caller gets it.
#[must_use]
pub const fn returned(answer: Answer) -> sys::nvmlReturn_t {
    match answer {
        Ok(()) => 0,
        Err(Code(code)) => code,
    }
}

/// The version word of a struct: its size and its revision.
#[must_use]
pub const fn struct_version(size: usize, revision: u32) -> c_uint {
    #[expect(clippy::cast_possible_truncation, reason = "NVML's structs are some kilobytes long")]
    let size = size as u32;
    size | (revision << 24)
}

/// A device or another thing of the library, by its number: the caller's pointer is never followed.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(pub usize);

/// A pointer into the caller's memory. Only C callers make one, and NVML's header demands of them that it be null
/// or valid for what the function reads and writes there: on this rests every unsafe block below.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Out<T>(*mut T);

#[expect(unsafe_code, reason = "out parameters of the C ABI")]
impl<T: Copy> Out<T> {
    /// A test's own variable.
    #[cfg(test)]
    pub(crate) fn to(variable: &mut T) -> Self {
        Self(variable)
    }

    /// Whether the caller wants no answer here.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes an answer; a null pointer is refused.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn put(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so valid (see the type); packed callers do not exist, but cost nothing to bear.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Reads an in/out parameter; a null pointer is refused.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn get(self) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so valid (see the type).
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The element at a place of the caller's array; null stays null.
    #[must_use]
    pub fn at(self, index: usize) -> Self {
        if self.0.is_null() { self } else { Self(self.0.wrapping_add(index)) }
    }

    /// What begins where this ends: the array behind a header.
    #[must_use]
    pub fn behind<U>(self) -> Out<U> {
        Out(if self.0.is_null() { std::ptr::null_mut() } else { self.0.wrapping_add(1).cast() })
    }

    /// Writes a list by NVML's rule for lists: `count` holds the capacity and gets the length. `short` is the
    /// answer where the list does not fit.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a null count, and `short`.
    pub fn put_list(self, count: Out<c_uint>, items: &[T], short: Answer) -> Answer {
        let capacity = count.get()?;
        let length = c_uint::try_from(items.len()).unwrap_or(c_uint::MAX);
        count.put(length)?;
        if length == 0 {
            return Ok(());
        }
        if capacity < length || self.is_null() {
            return short;
        }
        items.iter().enumerate().try_for_each(|(index, item)| self.at(index).put(*item))
    }
}

#[cfg(test)]
impl<T: Copy, const N: usize> Out<[T; N]> {
    pub(crate) fn cast_to_element(self) -> Out<T> {
        Out(self.0.cast())
    }
}

impl Out<c_char> {
    /// Writes a text and its end; one that does not fit is refused and not cut, as the driver does.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, INSUFFICIENT_SIZE.
    pub fn put_text(self, capacity: c_uint, text: &str) -> Answer {
        if text.len() >= usize::try_from(capacity).unwrap_or(0) {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        let bytes = text.bytes().chain([0]);
        bytes.enumerate().try_for_each(|(index, byte)| self.at(index).put(c_char::from_ne_bytes([byte])))
    }
}

/// A text of the caller, null or ending with a zero byte.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// The text, where there is one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for null and for what is not UTF-8.
    pub fn get(self) -> Result<String, Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        #[expect(unsafe_code, reason = "a text parameter of the C ABI")]
        // SAFETY: not null, so it ends with a zero byte (see the type).
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Code::INVALID_ARGUMENT)
    }
}

/// A text in a fixed array of C; cut at its end, so that it always has one.
#[must_use]
pub fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn structs_have_the_size_of_the_c_header() {
        for (name, size, expect) in [
            ("Memory", size_of::<sys::nvmlMemory_t>(), 24),
            ("Memory_v2", size_of::<sys::nvmlMemory_v2_t>(), 40),
            ("PciInfo", size_of::<sys::nvmlPciInfo_t>(), 68),
            ("ProcessInfo", size_of::<sys::nvmlProcessInfo_t>(), 24),
            ("Utilization", size_of::<sys::nvmlUtilization_t>(), 8),
            ("EventData", size_of::<sys::nvmlEventData_t>(), 32),
            ("FieldValue", size_of::<sys::nvmlFieldValue_t>(), 40),
            ("ProcessUtilizationSample", size_of::<sys::nvmlProcessUtilizationSample_t>(), 32),
            ("Sample", size_of::<sys::nvmlSample_t>(), 16),
            ("DeviceAttributes", size_of::<sys::nvmlDeviceAttributes_t>(), 40),
            ("GpmMetric", size_of::<sys::nvmlGpmMetric_t>(), 40),
            ("GpmSupport", size_of::<sys::nvmlGpmSupport_t>(), 8),
            ("MarginTemperature", size_of::<sys::nvmlMarginTemperature_t>(), 8),
            ("GpuInstancePlacement", size_of::<sys::nvmlGpuInstancePlacement_t>(), 8),
            ("GpmMetricsGet", size_of::<sys::nvmlGpmMetricsGet_t>(), 8424),
        ] {
            assert_eq!(size, expect, "{name}");
        }
    }

    #[test]
    fn fields_lie_where_the_c_header_puts_them() {
        assert_eq!(offset_of!(sys::nvmlEventData_t, gpuInstanceId), 24);
        assert_eq!(offset_of!(sys::nvmlFieldValue_t, value), 32);
        assert_eq!(offset_of!(sys::nvmlPciInfo_t, busId), 36);
        assert_eq!(offset_of!(sys::nvmlGpmMetricsGet_t, metrics), 24);
    }

    #[test]
    fn version_words_are_those_of_the_header() {
        assert_eq!(struct_version(size_of::<sys::nvmlMemory_v2_t>(), 2), 0x0200_0028);
        assert_eq!(struct_version(size_of::<sys::nvmlMarginTemperature_t>(), 1), 0x0100_0008);
    }

    #[test]
    fn a_text_that_does_not_fit_is_refused_and_not_cut() {
        let mut buffer = [1; 4];
        let put =
            |out: &mut [c_char; 4], capacity, text| Out::to(out).cast_to_element().put_text(capacity, text);
        assert_eq!(put(&mut buffer, 4, "abcd"), Err(Code::INSUFFICIENT_SIZE));
        assert_eq!(buffer, [1; 4]);
        assert_eq!(put(&mut buffer, 4, "abc"), Ok(()));
        assert_eq!(buffer, chars("abc"));
        assert_eq!(chars::<4>("abcdef"), chars::<4>("abc"));
    }
}
