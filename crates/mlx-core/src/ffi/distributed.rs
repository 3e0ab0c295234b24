//! The boundary of [`distributed`](crate::distributed).

use std::ptr::null_mut;
use std::sync::OnceLock;

use super::{Stream as Place, describe, error_slot, one, runtime, status_call};
use crate::distributed::Backend;
use crate::{Array, Device, Dtype, Result, Stream};

pub(crate) use mlx_sys::collective_kind as kind;

/// An owned group of the shim's.
#[derive(Debug)]
pub(crate) struct Handle(mlx_sys::group);

// SAFETY: the shim's handle is a counted pointer to a group, whose rank and size never change, and
// which does everything else on MLX's own threads.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Clone for Handle {
    fn clone(&self) -> Self {
        let _guard = super::lock::lock();
        let mut raw = mlx_sys::group { ctx: null_mut() };
        // SAFETY: a live handle; the result is owned. Fails only without memory, and a null handle
        // is refused by every function below.
        let _ = status_call(|error| unsafe { mlx_sys::group_clone(&raw mut raw, self.0, error) });
        Handle(raw)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _guard = super::lock::lock();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::group_free(self.0) };
    }
}

/// Calls a function of the shim that makes a group, without the lock.
fn make(
    call: impl FnOnce(*mut mlx_sys::group, *mut mlx_sys::error) -> std::ffi::c_int,
) -> Result<Handle> {
    let mut raw = mlx_sys::group { ctx: null_mut() };
    let mut error = error_slot();
    if call(&raw mut raw, &raw mut error) == 0 {
        Ok(Handle(raw))
    } else {
        Err(describe(error, "", &[]))
    }
}

pub(crate) fn is_available(backend: &str) -> bool {
    let mut available = false;
    // SAFETY: a text with its true length and a flag valid for writes.
    let asked = status_call(|error| unsafe {
        mlx_sys::distributed_is_available(
            &raw mut available,
            backend.as_ptr().cast(),
            backend.len(),
            error,
        )
    });
    asked.is_ok() && available
}

/// May wait for other processes; the caller lets one call run at a time.
pub(crate) fn init(backend: &str, strict: bool) -> Result<Handle> {
    make(|out, error| {
        // SAFETY: a text with its true length; the result is owned.
        unsafe {
            mlx_sys::distributed_init(out, strict, backend.as_ptr().cast(), backend.len(), error)
        }
    })
}

pub(crate) fn alone() -> Result<Handle> {
    // SAFETY: the result is owned.
    make(|out, error| unsafe { mlx_sys::distributed_alone(out, error) })
}

impl Handle {
    pub(crate) fn rank(&self) -> i32 {
        // SAFETY: a live handle.
        unsafe { mlx_sys::group_rank(self.0) }
    }

    pub(crate) fn size(&self) -> i32 {
        // SAFETY: a live handle.
        unsafe { mlx_sys::group_size(self.0) }
    }

    pub(crate) fn backend(&self) -> Option<Backend> {
        use mlx_sys::group_backend as raw;
        // SAFETY: a live handle.
        match unsafe { mlx_sys::group_backend_of(self.0) } {
            raw::MLXS_GROUP_RING => Some(Backend::Ring),
            raw::MLXS_GROUP_MPI => Some(Backend::Mpi),
            raw::MLXS_GROUP_NCCL => Some(Backend::Nccl),
            raw::MLXS_GROUP_JACCL => Some(Backend::Jaccl),
            _ => None,
        }
    }

    pub(crate) fn split(&self, color: i32, key: i32) -> Result<Handle> {
        let _guard = runtime::enter();
        // SAFETY: a live handle; the result is owned.
        make(|out, error| unsafe { mlx_sys::group_split(out, self.0, color, key, error) })
    }
}

pub(crate) fn clear() -> Result<()> {
    super::plain_call(mlx_sys::distributed_clear)
}

/// The streams on which processes talk: one for operations of the whole group, one to send and one
/// to receive. Nothing else runs there, so that waiting for a peer holds up nothing else.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    All,
    Send,
    Receive,
}

fn stream(lane: Lane, backend: Option<Backend>) -> Result<Stream> {
    static LANES: OnceLock<[Stream; 3]> = OnceLock::new();
    if backend == Some(Backend::Nccl) {
        let current = runtime::current_stream();
        return if current.device() == Device::gpu() {
            Ok(current)
        } else {
            runtime::shared_stream(Device::gpu())
        };
    }
    let lanes = match LANES.get() {
        Some(lanes) => lanes,
        None => {
            let new = || runtime::new_stream(Device::cpu());
            let made = [new()?, new()?, new()?];
            LANES.get_or_init(|| made)
        }
    };
    Ok(match lane {
        // MPI allows one thread at a time.
        _ if backend == Some(Backend::Mpi) => lanes[0],
        Lane::All => lanes[0],
        Lane::Send => lanes[1],
        Lane::Receive => lanes[2],
    })
}

pub(crate) fn collective(
    op: &'static str,
    kind: mlx_sys::collective_kind::Type,
    x: &Array,
    peer: i32,
    group: &Handle,
    lane: Lane,
) -> Result<Array> {
    let stream = stream(lane, group.backend())?.raw();
    one(op, &[x], Place::Current, |out, _, error| {
        // SAFETY: live handles and a stream of this process.
        unsafe { mlx_sys::collective(out, kind, x.as_raw(), peer, group.0, stream, error) }
    })
}

pub(crate) fn recv(dims: &[i32], dtype: Dtype, peer: i32, group: &Handle) -> Result<Array> {
    let stream = stream(Lane::Receive, group.backend())?.raw();
    one("recv", &[], Place::Current, |out, _, error| {
        // SAFETY: a slice with its true length, a live handle and a stream of this process.
        unsafe {
            mlx_sys::recv(
                out,
                dims.as_ptr(),
                dims.len(),
                dtype.code(),
                peer,
                group.0,
                stream,
                error,
            )
        }
    })
}
