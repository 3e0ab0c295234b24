//! Several processes that compute together.
//!
//! Each process of a [`Group`] runs the same program, and calls the same operations in the same
//! order: MLX's messages carry neither names nor shapes, so a process that leaves one out makes the
//! others wait, or hands them bytes of another array. Operations are lazy; those that one
//! evaluation needs run in the order of the graph, one at a time. Waiting for another process
//! holds up nothing else in this one.
//!
//! The ring back end works everywhere, over TCP. Its processes find each other through a host file
//! and two environment variables, which [`Hosts`] writes for processes that you start:
//!
//! ```no_run
//! use mlx_core::distributed::{Group, Hosts, Init, all_sum};
//! use mlx_core::Array;
//!
//! if std::env::var_os("MLX_RANK").is_none() {
//!     // The launcher: two more processes of this program, on this machine.
//!     let hosts = Hosts::loopback(2)?;
//!     hosts.write("hosts.json")?;
//!     for rank in 0..2 {
//!         let mut worker = std::process::Command::new("worker");
//!         hosts.configure(&mut worker, "hosts.json", rank)?;
//!         worker.spawn().expect("the program starts");
//!     }
//! } else {
//!     let group = Group::init(Init::default())?;
//!     let sum = all_sum(&Array::scalar(1.0f32)?, &group)?;
//!     assert_eq!(sum.item::<f32>()?, 2.0);
//! }
//! # Ok::<(), mlx_core::Error>(())
//! ```
//!
//! A peer that ends or is cut off makes the operations that wait for it fail. A peer that merely
//! stays silent cannot be told from a slow one: only [`Init::timeout`] limits waiting, and only
//! while the group forms.

mod hosts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

pub use hosts::Hosts;

use crate::ffi::distributed as ffi;
use crate::ffi::distributed::{Lane, kind};
use crate::shape::checked_size;
use crate::{Array, Dtype, Error, IntoShape, Result};

/// How processes talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// The first that works, of NCCL (on CUDA), ring, MPI and JACCL.
    #[default]
    Any,
    /// TCP between neighbours. Reads `MLX_HOSTFILE` and `MLX_RANK`.
    Ring,
    /// Open MPI, loaded when it is asked for. Start the program with `mpirun`.
    Mpi,
    /// NVIDIA's library. Reads `NCCL_HOST_IP`, `NCCL_PORT`, `MLX_RANK` and `MLX_WORLD_SIZE`.
    Nccl,
    /// RDMA over Thunderbolt (macOS). Reads `MLX_RANK`, `MLX_IBV_DEVICES` and
    /// `MLX_JACCL_COORDINATOR`.
    Jaccl,
}

impl Backend {
    fn as_str(self) -> &'static str {
        match self {
            Backend::Any => "any",
            Backend::Ring => "ring",
            Backend::Mpi => "mpi",
            Backend::Nccl => "nccl",
            Backend::Jaccl => "jaccl",
        }
    }

    /// Whether this build and this machine have it.
    pub fn is_available(self) -> bool {
        ffi::is_available(self.as_str())
    }
}

/// Whether any back end is there.
pub fn is_available() -> bool {
    Backend::Any.is_available()
}

/// How a [`Group`] forms.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct Init {
    backend: Backend,
    timeout: Duration,
    required: bool,
}

impl Default for Init {
    fn default() -> Self {
        Init {
            backend: Backend::Any,
            timeout: Duration::from_secs(60),
            required: true,
        }
    }
}

impl Init {
    /// Talks through this back end only.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// How long to wait for the other processes (default one minute). NCCL has a limit of its own,
    /// the variable `MLX_NCCL_TIMEOUT`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether not to find a back end, or not to be told of other processes, is an error
    /// (default true). Otherwise it gives a group of this process alone.
    pub fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }
}

/// Processes that compute together, or some of them.
#[derive(Clone, Debug)]
pub struct Group {
    handle: ffi::Handle,
    rank: i32,
    size: i32,
    backend: Option<Backend>,
}

/// Forming groups waits for other processes, and MLX allows one such call at a time.
static FORMING: Mutex<()> = Mutex::new(());
/// Whether a call that was given up still waits, on a thread of its own.
static STUCK: AtomicBool = AtomicBool::new(false);

impl Group {
    fn new(handle: ffi::Handle) -> Self {
        Group {
            rank: handle.rank(),
            size: handle.size(),
            backend: handle.backend(),
            handle,
        }
    }

    /// Joins the other processes. Every process of the group calls this; later calls return the
    /// same group at once.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the back end is not there or the environment names no other
    /// processes; [`Error::Io`] or [`Error::Format`] for a host file that cannot be used;
    /// [`Error::Backend`] if the others cannot be reached in time.
    pub fn init(options: Init) -> Result<Group> {
        let Init {
            backend,
            timeout,
            required,
        } = options;
        if !backend.is_available() {
            return if required {
                Err(Error::Unsupported(format!(
                    "distributed: there is no {} back end here",
                    backend.as_str()
                )))
            } else {
                Group::alone()
            };
        }
        let _one_at_a_time = FORMING.lock().unwrap_or_else(PoisonError::into_inner);
        let given_hosts = hosts::from_environment();
        let ring = match (backend, &given_hosts) {
            (Backend::Ring, Ok(None)) if required => {
                return Err(Error::Unsupported(
                    "distributed: the ring back end needs MLX_HOSTFILE (a file of addresses) and \
                     MLX_RANK (this process's place in it)"
                        .to_owned(),
                ));
            }
            (Backend::Ring, Ok(None)) => return Group::alone(),
            (Backend::Ring, _) => true,
            // MLX tries NCCL first, and the ring where it is told of hosts.
            (Backend::Any, Ok(found)) => found.is_some() && !Backend::Nccl.is_available(),
            (Backend::Any, Err(_)) => !Backend::Nccl.is_available(),
            _ => false,
        };
        if ring && given_hosts?.is_some_and(|count| count == 1) {
            return Group::alone();
        }
        let wait_here =
            matches!(backend, Backend::Nccl | Backend::Any) && Backend::Nccl.is_available();
        let group = if wait_here {
            // NCCL ties its device to the calling thread.
            Group::new(ffi::init(backend.as_str(), required)?)
        } else {
            Group::new(init_within(backend, required, timeout)?)
        };
        if required && group.backend.is_none() {
            return Err(Error::Unsupported(format!(
                "distributed: nothing tells the {} back end of other processes",
                backend.as_str()
            )));
        }
        Ok(group)
    }

    /// The group of this process alone, in which every operation returns its operand.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is none left.
    pub fn alone() -> Result<Group> {
        ffi::alone().map(Group::new)
    }

    /// This process's number in the group, from zero.
    pub fn rank(&self) -> i32 {
        self.rank
    }

    /// How many processes there are.
    pub fn size(&self) -> i32 {
        self.size
    }

    /// How they talk; `None` for a process alone.
    pub fn backend(&self) -> Option<Backend> {
        self.backend
    }

    /// The processes that give the same `color`, in the order of `key` (of their ranks if `None`).
    /// Every process of the group calls this.
    ///
    /// # Errors
    /// [`Error::Backend`] with the ring, which cannot be split.
    pub fn split(&self, color: i32, key: Option<i32>) -> Result<Group> {
        if key.is_some_and(|key| key < 0) {
            return Err(Error::shape("split", "a key must not be negative"));
        }
        self.handle.split(color, key.unwrap_or(-1)).map(Group::new)
    }

    fn collective(&self, op: &'static str, kind: kind::Type, x: &Array) -> Result<Array> {
        if self.size == 1 {
            return Ok(x.clone());
        }
        ffi::collective(op, kind, x, 0, &self.handle, Lane::All)
    }

    /// Checks that the peer can be talked to.
    fn peer(&self, op: &'static str, peer: i32) -> Result<()> {
        if self.size == 1 || peer == self.rank {
            return Err(Error::shape(op, "a process cannot talk to itself"));
        }
        if !(0..self.size).contains(&peer) {
            return Err(Error::OutOfBounds {
                op,
                index: i64::from(peer),
                axis: 0,
                size: i64::from(self.size),
            });
        }
        let distance = (peer - self.rank).rem_euclid(self.size);
        match self.backend {
            Some(Backend::Ring) if distance != 1 && distance != self.size - 1 => {
                Err(Error::Unsupported(format!(
                    "{op}: the ring connects neighbours only, and {peer} is none of {}",
                    self.rank
                )))
            }
            Some(Backend::Nccl) => Err(Error::Unsupported(format!("{op}: MLX has none for NCCL"))),
            _ => Ok(()),
        }
    }
}

/// Forms the group on a thread that may be left behind: MLX waits for its peers without limit.
fn init_within(backend: Backend, required: bool, timeout: Duration) -> Result<ffi::Handle> {
    let late = |what: &str| Error::Backend(format!("distributed: {what}"));
    if STUCK.load(Ordering::Acquire) {
        return Err(late(
            "an earlier attempt to reach the other processes still waits",
        ));
    }
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("mlx-distributed-init".to_owned())
        .spawn(move || {
            let result = ffi::init(backend.as_str(), required);
            // Nobody listens after the time limit; the group then waits in MLX for the next call.
            let _ = sender.send(result);
            STUCK.store(false, Ordering::Release);
        })
        .map_err(|error| late(&format!("no thread to wait on: {error}")))?;
    match receiver.recv_timeout(timeout) {
        Ok(result) => result,
        Err(_) => {
            STUCK.store(true, Ordering::Release);
            Err(late(&format!(
                "the other processes were not there within {} s",
                timeout.as_secs_f32()
            )))
        }
    }
}

/// Forgets all groups: the next [`Group::init`] connects anew. Waits for all work first.
///
/// # Errors
/// None in practice.
pub fn clear_backends() -> Result<()> {
    let _one_at_a_time = FORMING.lock().unwrap_or_else(PoisonError::into_inner);
    if STUCK.load(Ordering::Acquire) {
        return Err(Error::Backend(
            "distributed: an attempt to reach the other processes still waits".to_owned(),
        ));
    }
    ffi::clear()
}

/// The sum over all processes; every process gives the same shape and dtype.
///
/// Its gradient is that of this process's own share: cotangents pass unchanged.
///
/// # Errors
/// [`Error::Op`] if MLX refuses the operand.
pub fn all_sum(x: &Array, group: &Group) -> Result<Array> {
    group.collective("all_sum", kind::MLXS_ALL_SUM, x)
}

/// The largest element of all processes at each place.
///
/// # Errors
/// As [`all_sum`].
pub fn all_max(x: &Array, group: &Group) -> Result<Array> {
    group.collective("all_max", kind::MLXS_ALL_MAX, x)
}

/// The smallest element of all processes at each place.
///
/// # Errors
/// As [`all_sum`].
pub fn all_min(x: &Array, group: &Group) -> Result<Array> {
    group.collective("all_min", kind::MLXS_ALL_MIN, x)
}

/// The arrays of all processes, in the order of their ranks, joined along the first axis:
/// `[N, ..] → [N · size, ..]`; a scalar gives `[size]`.
///
/// # Errors
/// [`Error::Shape`] if the result is larger than an array can be.
pub fn all_gather(x: &Array, group: &Group) -> Result<Array> {
    let mut dims = x.shape().to_vec();
    match dims.first_mut() {
        Some(first) => {
            *first = first.checked_mul(group.size).ok_or_else(|| {
                Error::shape(
                    "all_gather",
                    "the first axis grows longer than an axis can be",
                )
            })?;
        }
        None => dims.push(group.size),
    }
    checked_size("all_gather", &dims, x.dtype())?;
    group.collective("all_gather", kind::MLXS_ALL_GATHER, x)
}

/// This process's part of the sum over all processes: `[N, ..] → [N / size, ..]`.
///
/// Where MLX has no such operation (ring and MPI) the whole sum is computed and cut.
///
/// # Errors
/// [`Error::Shape`] if the first axis does not divide by the number of processes.
pub fn sum_scatter(x: &Array, group: &Group) -> Result<Array> {
    let rows = x.shape().first().copied().unwrap_or(0);
    if x.ndim() == 0 || rows % group.size != 0 {
        return Err(Error::shape(
            "sum_scatter",
            format!(
                "the first axis of {:?} does not divide into {} parts",
                x.shape(),
                group.size
            ),
        ));
    }
    if group.size == 1 || matches!(group.backend, Some(Backend::Nccl | Backend::Jaccl)) {
        return group.collective("sum_scatter", kind::MLXS_SUM_SCATTER, x);
    }
    let part = rows / group.size;
    let mut starts = vec![0; x.ndim()];
    let mut stops = x.shape().to_vec();
    starts[0] = group.rank * part;
    stops[0] = starts[0] + part;
    crate::ops::indexing::slice(&all_sum(x, group)?, &starts, &stops)
}

/// Sends `x` to the process `to`. The result is `x`; evaluating it sends.
///
/// # Errors
/// [`Error::OutOfBounds`] for a rank outside the group; [`Error::Unsupported`] if the back end
/// cannot reach it: the ring connects neighbours only, and NCCL none.
pub fn send(x: &Array, to: i32, group: &Group) -> Result<Array> {
    group.peer("send", to)?;
    ffi::collective("send", kind::MLXS_SEND, x, to, &group.handle, Lane::Send)
}

/// What the process `from` sends, which must be of this shape and dtype.
///
/// # Errors
/// As [`send`], or [`Error::Shape`] for an impossible shape.
pub fn recv(
    shape: &(impl IntoShape + ?Sized),
    dtype: Dtype,
    from: i32,
    group: &Group,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("recv", &dims, dtype)?;
    group.peer("recv", from)?;
    ffi::recv(&dims, dtype, from, &group.handle)
}

/// [`recv`] in the shape and dtype of `x`.
///
/// # Errors
/// As [`recv`].
pub fn recv_like(x: &Array, from: i32, group: &Group) -> Result<Array> {
    recv(x.shape(), x.dtype(), from, group)
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Group: Send, Sync, Clone);

    #[test]
    fn a_process_alone_needs_nobody() {
        let group = Group::alone().unwrap();
        assert_eq!((group.rank(), group.size(), group.backend()), (0, 1, None));
        let x = Array::from_slice(&[1.0f32, 2.0], &[2]).unwrap();
        for op in [all_sum, all_max, all_min, all_gather, sum_scatter] {
            assert_eq!(op(&x, &group).unwrap().to_vec::<f32>().unwrap(), [1.0, 2.0]);
        }
        assert!(send(&x, 0, &group).is_err());
        assert!(recv_like(&x, 1, &group).is_err());
        assert_eq!(group.split(0, None).unwrap().size(), 1);
    }
}
