//! Field values: many readings in one call, each with its own answer.
#![expect(unsafe_code, reason = "exports under NVML's names, for C callers")]

use std::ffi::c_int;

use nvml_wrapper_sys::bindings as sys;

use crate::abi::{Code, Handle, Out};
use crate::scenario::Gpu;

/// Most fields of one call.
const FIELDS_MAX: usize = 1024;

/// A value with the type that NVML gives it.
enum Value {
    Unsigned32(u32),
    Unsigned64(u64),
    Signed32(i32),
}

exports! {
    nvmlDeviceGetFieldValues(device: Handle, count: c_int, values: Out<sys::nvmlFieldValue_t>) = |driver| {
        let gpu = driver.gpu(device)?;
        let count = usize::try_from(count).ok().filter(|count| (1..=FIELDS_MAX).contains(count));
        for index in 0..count.ok_or(Code::INVALID_ARGUMENT)? {
            let asked = values.at(index);
            asked.put(answer(gpu, asked.get()?))?;
        }
        Ok(())
    };
}

fn answer(gpu: &Gpu, mut field: sys::nvmlFieldValue_t) -> sys::nvmlFieldValue_t {
    field.timestamp = 0;
    field.latencyUsec = 0;
    field.nvmlReturn = 0;
    match value(gpu, field.fieldId) {
        Some(Value::Unsigned32(value)) => (field.valueType, field.value.uiVal) = (1, value),
        Some(Value::Unsigned64(value)) => (field.valueType, field.value.ullVal) = (3, value),
        Some(Value::Signed32(value)) => (field.valueType, field.value.siVal) = (5, value),
        None => field.nvmlReturn = Code::NOT_SUPPORTED.0,
    }
    field
}

/// A field that the scenario names, else one that follows from its readings.
fn value(gpu: &Gpu, id: u32) -> Option<Value> {
    if let Some(value) = gpu.fields.get(&id) {
        return Some(Value::Unsigned64(*value));
    }
    if let Some(value) = gpu.fields_signed.get(&id) {
        return Some(Value::Signed32(*value));
    }
    let row = |place: usize| gpu.remapped_rows?.get(place).copied().filter(|_| gpu.mig.is_none());
    match id {
        82 => gpu.temp_mem_c.map(Value::Unsigned32),
        83 => gpu.energy_mj.map(Value::Unsigned64),
        142 => row(0).map(Value::Unsigned32),
        143 => row(1).map(Value::Unsigned32),
        144 => row(2).map(Value::Unsigned32),
        145 => row(3).map(Value::Unsigned32),
        185 | 186 => gpu.power_mw.map(Value::Unsigned32),
        230 => gpu.recovery_action.map(Value::Unsigned32),
        _ => None,
    }
}
