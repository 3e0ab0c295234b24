//! Process-wide devices and streams, and the calling thread's place among them.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, OnceLock};

use super::lock::{self, Guard};
use super::{describe, error_slot, status_call};
use crate::{Device, DeviceInfo, DeviceType, Error, Result, Stream};

/// What is made once for the process.
struct Runtime {
    cpu: Stream,
    /// Absent on machines without a GPU, whatever MLX was built for.
    gpu: Option<Stream>,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static DEFAULT_DEVICE: Mutex<Option<Device>> = Mutex::new(None);

thread_local! {
    /// Whether MLX's own thread-local default streams point at ours; else MLX would start a
    /// stream, and with it an operating-system thread that never ends, for each of our threads.
    static READY: Cell<bool> = const { Cell::new(false) };
    /// The stream of the innermost scope.
    static SCOPE: Cell<Option<Stream>> = const { Cell::new(None) };
    /// A copy of the default, so that the hot path takes no second lock.
    static DEFAULT: Cell<Option<(u32, Stream)>> = const { Cell::new(None) };
}

/// Counts changes of the default device, to invalidate the threads' copies.
static GENERATION: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

/// Takes the lock on a thread that MLX knows.
#[inline]
pub(crate) fn enter() -> Guard {
    let guard = lock::lock();
    if !READY.with(Cell::get) {
        prepare_thread();
    }
    guard
}

#[cold]
fn prepare_thread() {
    READY.with(|ready| ready.set(true));
    let runtime = runtime();
    for stream in [Some(runtime.cpu), runtime.gpu].into_iter().flatten() {
        // Can only fail for a device that the build lacks, and these streams exist.
        let _ = status_call(|error| {
            // SAFETY: a plain value and a valid slot.
            unsafe { mlx_sys::stream_set_default(stream.raw(), error) }
        });
    }
}

fn runtime() -> &'static Runtime {
    RUNTIME.get_or_init(|| {
        #[cfg(target_os = "linux")]
        super::blas::keep();
        // SAFETY: sets one pointer, before any closure exists.
        unsafe { mlx_sys::set_failure_drop(Some(super::drop_failure)) };
        // SAFETY: sets one pointer, before anything can be evaluated.
        unsafe { mlx_sys::set_unlocked(Some(super::wait_unlocked)) };
        let gpus = device_count(DeviceType::Gpu).unwrap_or(0);
        let cpu = make_stream(Device::cpu()).unwrap_or(Stream {
            index: 0,
            device: Device::cpu(),
        });
        let gpu = if gpus > 0 {
            make_stream(Device::gpu()).ok()
        } else {
            None
        };
        // MLX starts with the GPU as its default wherever the build has one, present or not.
        let default = gpu.map_or(Device::cpu(), |stream| stream.device);
        let _ = set_mlx_default(default);
        Runtime { cpu, gpu }
    })
}

fn set_mlx_default(device: Device) -> Result<()> {
    let (kind, index) = raw_device(device);
    // SAFETY: plain values and a valid slot.
    status_call(|error| unsafe { mlx_sys::set_default_device(kind, index, error) })
}

fn raw_device(device: Device) -> (i32, i32) {
    (device.device_type as i32, device.index)
}

fn make_stream(device: Device) -> Result<Stream> {
    let (kind, index) = raw_device(device);
    let mut out = mlx_sys::stream {
        index: 0,
        device_type: kind,
        device_index: index,
    };
    // SAFETY: `out` is valid for writes.
    status_call(|error| unsafe { mlx_sys::stream_new(&raw mut out, kind, index, error) })?;
    Ok(Stream {
        index: out.index,
        device,
    })
}

impl Stream {
    #[inline]
    pub(crate) fn raw(self) -> mlx_sys::stream {
        mlx_sys::stream {
            index: self.index,
            device_type: self.device.device_type as i32,
            device_index: self.device.index,
        }
    }
}

/// The stream for the calling thread's next operation.
#[inline]
pub(crate) fn current_stream() -> Stream {
    if let Some(stream) = SCOPE.with(Cell::get) {
        return stream;
    }
    let generation = GENERATION.load(std::sync::atomic::Ordering::Acquire);
    match DEFAULT.with(Cell::get) {
        Some((seen, stream)) if seen == generation => stream,
        _ => refresh_default(generation),
    }
}

#[cold]
fn refresh_default(generation: u32) -> Stream {
    let _guard = enter();
    let runtime = runtime();
    let stream = match default_device().device_type {
        DeviceType::Cpu => runtime.cpu,
        DeviceType::Gpu => runtime.gpu.unwrap_or(runtime.cpu),
    };
    DEFAULT.with(|default| default.set(Some((generation, stream))));
    stream
}

/// The stream for an operation that has no GPU kernel.
#[inline]
pub(crate) fn cpu_stream() -> Stream {
    let current = current_stream();
    if current.device.device_type == DeviceType::Cpu {
        return current;
    }
    let _guard = enter();
    runtime().cpu
}

pub(crate) fn default_device() -> Device {
    let chosen = DEFAULT_DEVICE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(device) = *chosen {
        return device;
    }
    drop(chosen);
    let _guard = enter();
    runtime().gpu.map_or(Device::cpu(), |stream| stream.device)
}

pub(crate) fn set_default_device(device: Device) -> Result<()> {
    require(device)?;
    let _guard = enter();
    set_mlx_default(device)?;
    *DEFAULT_DEVICE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(device);
    GENERATION.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    Ok(())
}

fn require(device: Device) -> Result<()> {
    if device.is_available() {
        Ok(())
    } else {
        Err(Error::Unsupported(format!(
            "there is no device {device} on this machine"
        )))
    }
}

pub(crate) fn device_count(device_type: DeviceType) -> Result<usize> {
    let _guard = lock::lock();
    let mut count = 0;
    // SAFETY: `count` is valid for writes.
    status_call(|error| unsafe {
        mlx_sys::device_count(&raw mut count, device_type as i32, error)
    })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

pub(crate) fn device_info(device: Device) -> Result<BTreeMap<String, DeviceInfo>> {
    unsafe extern "C" fn visit(
        context: *mut c_void,
        key: *const c_char,
        text: *const c_char,
        number: u64,
    ) {
        // SAFETY: `context` is the map below, alive and not otherwise borrowed during the call.
        let info = unsafe { &mut *context.cast::<BTreeMap<String, DeviceInfo>>() };
        // SAFETY: the shim passes NUL-terminated texts that outlive the call.
        let key = unsafe { CStr::from_ptr(key) }
            .to_string_lossy()
            .into_owned();
        let value = if text.is_null() {
            DeviceInfo::Number(number)
        } else {
            // SAFETY: as for the key; not null.
            DeviceInfo::Text(
                unsafe { CStr::from_ptr(text) }
                    .to_string_lossy()
                    .into_owned(),
            )
        };
        info.insert(key, value);
    }
    require(device)?;
    let _guard = enter();
    let (kind, index) = raw_device(device);
    let mut info = BTreeMap::new();
    status_call(|error| {
        // SAFETY: `visit` is called only during this call, with `info` as its context.
        unsafe { mlx_sys::device_info(kind, index, (&raw mut info).cast(), Some(visit), error) }
    })?;
    Ok(info)
}

pub(crate) fn streams() -> Result<Vec<Stream>> {
    unsafe extern "C" fn visit(context: *mut c_void, stream: mlx_sys::stream) {
        // SAFETY: `context` is the list below, alive and not otherwise borrowed during the call.
        let streams = unsafe { &mut *context.cast::<Vec<Stream>>() };
        streams.push(Stream {
            index: stream.index,
            device: Device {
                device_type: if stream.device_type == 0 {
                    DeviceType::Cpu
                } else {
                    DeviceType::Gpu
                },
                index: stream.device_index,
            },
        });
    }
    let _guard = enter();
    let mut streams = Vec::new();
    // SAFETY: `visit` is called only during this call, with `streams` as its context.
    status_call(|error| unsafe {
        mlx_sys::streams((&raw mut streams).cast(), Some(visit), error)
    })?;
    Ok(streams)
}

pub(crate) fn new_stream(device: Device) -> Result<Stream> {
    require(device)?;
    let _guard = enter();
    make_stream(device)
}

pub(crate) fn shared_stream(device: Device) -> Result<Stream> {
    require(device)?;
    let _guard = enter();
    let runtime = runtime();
    match (device.device_type, runtime.gpu) {
        (DeviceType::Cpu, _) => Ok(runtime.cpu),
        (DeviceType::Gpu, Some(stream)) if device.index == 0 => Ok(stream),
        _ => make_stream(device),
    }
}

/// Restores the outer scope when dropped.
pub(crate) struct Scope(Option<Stream>);

pub(crate) fn enter_scope(stream: Stream) -> Scope {
    Scope(SCOPE.with(|scope| scope.replace(Some(stream))))
}

impl Drop for Scope {
    fn drop(&mut self) {
        SCOPE.with(|scope| scope.set(self.0));
    }
}

pub(crate) fn synchronize(stream: Stream) -> Result<()> {
    let _guard = enter();
    let mut error = error_slot();
    // SAFETY: a plain value and a valid slot.
    let status = unsafe { mlx_sys::stream_synchronize(stream.raw(), &raw mut error) };
    if status == 0 {
        Ok(())
    } else {
        Err(describe(error, "synchronize", &[]))
    }
}
