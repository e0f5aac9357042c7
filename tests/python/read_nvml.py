"""Reads every GPU through NVIDIA's own Python binding and prints the readings as JSON, one object per GPU or slice.

The test beside crates/gpu compares this, field by field, with what the agent reads of the same library.
Absent readings are null.
"""

import json

import pynvml as nv

MEMORY_V2 = nv.nvmlMemory_v2


def some(call, *arguments):
    try:
        return call(*arguments)
    except nv.NVMLError:
        return None


def field(device, number):
    value = some(nv.nvmlDeviceGetFieldValues, device, [number])
    if value is None or value[0].nvmlReturn != nv.NVML_SUCCESS:
        return None
    read = value[0].value
    return {1: read.uiVal, 3: read.ullVal, 5: read.siVal}[value[0].valueType]


def memory(device):
    read = some(nv.nvmlDeviceGetMemoryInfo, device, MEMORY_V2) or some(nv.nvmlDeviceGetMemoryInfo, device)
    names = (("vram_total", "total"), ("vram_used", "used"), ("vram_free", "free"))
    return {ours: read and getattr(read, theirs) for ours, theirs in names}


METRICS = {
    "sm_active": nv.NVML_GPM_METRIC_SM_UTIL,
    "sm_occupancy": nv.NVML_GPM_METRIC_SM_OCCUPANCY,
    "tensor_active": nv.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    "dram_active": nv.NVML_GPM_METRIC_DRAM_BW_UTIL,
}


def activity(take):
    samples = [nv.nvmlGpmSampleAlloc(), nv.nvmlGpmSampleAlloc()]
    try:
        for sample in samples:
            take(sample)
    except nv.NVMLError:
        return dict.fromkeys(METRICS)
    asked = nv.c_nvmlGpmMetricsGet_t()
    asked.version = nv.NVML_GPM_METRICS_GET_VERSION
    asked.numMetrics = len(METRICS)
    asked.sample1, asked.sample2 = samples
    for place, metric in enumerate(METRICS.values()):
        asked.metrics[place].metricId = metric
    nv.nvmlGpmMetricsGet(asked)
    got = {name: asked.metrics[place] for place, name in enumerate(METRICS)}
    return {name: m.value if m.nvmlReturn == nv.NVML_SUCCESS else None for name, m in got.items()}


def margin(device, temperature):
    read = some(nv.nvmlDeviceGetMarginTemperature, device)
    if read is not None:
        return read
    highest = some(nv.nvmlDeviceGetTemperatureThreshold, device, nv.NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
    return None if highest is None or temperature is None else highest - temperature


def pcie_link(device):
    calls = (nv.nvmlDeviceGetCurrPcieLinkGeneration, nv.nvmlDeviceGetCurrPcieLinkWidth,
             nv.nvmlDeviceGetMaxPcieLinkGeneration, nv.nvmlDeviceGetMaxPcieLinkWidth)
    link = [some(call, device) for call in calls]
    return None if None in link else link


def nvlinks_active(device):
    states = [some(nv.nvmlDeviceGetNvLinkState, device, link) for link in range(nv.NVML_NVLINK_MAX_LINKS)]
    return None if states[0] is None else sum(state or 0 for state in states)


def added(one, other):
    return None if one is None and other is None else (one or 0) + (other or 0)


def whole(device):
    busy = some(nv.nvmlDeviceGetUtilizationRates, device)
    temperature = some(nv.nvmlDeviceGetTemperature, device, nv.NVML_TEMPERATURE_GPU)
    rows = some(nv.nvmlDeviceGetRemappedRows, device) or (None,) * 4
    return {
        "uuid": nv.nvmlDeviceGetUUID(device),
        "name": nv.nvmlDeviceGetName(device),
        "mig": None,
        **memory(device),
        **activity(lambda sample: nv.nvmlGpmSampleGet(device, sample)),
        "power_limit": some(nv.nvmlDeviceGetEnforcedPowerLimit, device),
        "sm_clock_max": some(nv.nvmlDeviceGetMaxClockInfo, device, nv.NVML_CLOCK_SM),
        "slowdown_margin": field(device, nv.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT),
        "busy": busy and busy.gpu,
        "memory_busy": busy and busy.memory,
        "temperature": temperature,
        "thermal_margin": margin(device, temperature),
        "power": some(nv.nvmlDeviceGetPowerUsage, device),
        "energy": some(nv.nvmlDeviceGetTotalEnergyConsumption, device),
        "sm_clock": some(nv.nvmlDeviceGetClockInfo, device, nv.NVML_CLOCK_SM),
        "memory_clock": some(nv.nvmlDeviceGetClockInfo, device, nv.NVML_CLOCK_MEM),
        "reasons": some(nv.nvmlDeviceGetCurrentClocksEventReasons, device),
        "memory_temperature": field(device, nv.NVML_FI_DEV_MEMORY_TEMP),
        "ecc_corrected": some(nv.nvmlDeviceGetTotalEccErrors, device, nv.NVML_MEMORY_ERROR_TYPE_CORRECTED, nv.NVML_VOLATILE_ECC),
        "ecc_uncorrected": some(nv.nvmlDeviceGetTotalEccErrors, device, nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nv.NVML_VOLATILE_ECC),
        "rows_remapped": rows[1],
        "row_remap_pending": rows[2] if rows[2] is None else bool(rows[2]),
        "row_remap_failed": rows[3] if rows[3] is None else bool(rows[3]),
        "recovery_action": field(device, nv.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        "pcie_link": pcie_link(device),
        "pcie_replays": field(device, nv.NVML_FI_DEV_PCIE_REPLAY_COUNTER),
        "nvlinks_active": nvlinks_active(device),
        "nvlink_errors": added(field(device, nv.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL), field(device, nv.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL)),
        "pages_retired": added(field(device, nv.NVML_FI_DEV_RETIRED_SBE), field(device, nv.NVML_FI_DEV_RETIRED_DBE)),
    }


def slices(device):
    mode = some(nv.nvmlDeviceGetMigMode, device)
    for place in range(nv.nvmlDeviceGetMaxMigDeviceCount(device) if mode and mode[0] else 0):
        part = some(nv.nvmlDeviceGetMigDeviceHandleByIndex, device, place)
        if part is not None:
            yield part


def read(device):
    gpu = whole(device)
    parts = list(slices(device))
    if not parts:
        yield gpu
    for part in parts:
        instance = nv.nvmlDeviceGetGpuInstanceId(part)
        not_its_own = dict.fromkeys(("power_limit", "busy", "memory_busy", "power", "energy"))
        yield gpu | not_its_own | memory(part) | activity(lambda sample: nv.nvmlGpmMigSampleGet(device, instance, sample)) | {
            "uuid": nv.nvmlDeviceGetUUID(part),
            "name": nv.nvmlDeviceGetName(part),
            "mig": [gpu["uuid"], instance, nv.nvmlDeviceGetComputeInstanceId(part)],
        }


nv.nvmlInit()
devices = [nv.nvmlDeviceGetHandleByIndex(index) for index in range(nv.nvmlDeviceGetCount())]
print(json.dumps([gpu for device in devices for gpu in read(device)]))
nv.nvmlShutdown()
