// The C ABI of the shim: what Rust calls. Our own, thin layer over MLX's C++ API.
//
// Conventions, without exception:
// - Every fallible function returns 0 on success. On failure it returns 1 and fills `*error`, whose
//   text and payload then belong to the caller (`mlxs_error_clear`).
// - An array is MLX's own two-word shared pointer, held by value. A function that produces an
//   array writes it into uninitialised storage; the caller owns it and releases it with
//   `mlxs_array_drop`. Moving the two words bitwise moves the ownership.
// - Nothing here locks. MLX's host side is not thread-safe; the caller serialises all calls
//   except those marked "lock-free".
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mlxs_array {
  uintptr_t words[2];
} mlxs_array;

/// A list of arrays made by the shim. The elements belong to the caller, who moves them out
/// bitwise and then frees the storage with `mlxs_array_list_free`.
typedef struct mlxs_array_list {
  mlxs_array* data;
  size_t len;
} mlxs_array_list;

typedef struct mlxs_stream {
  int32_t index;
  int32_t device_type;
  int32_t device_index;
} mlxs_stream;

typedef enum mlxs_error_kind {
  MLXS_ERROR_NONE = 0,
  MLXS_ERROR_INVALID_ARGUMENT = 1,
  MLXS_ERROR_OUT_OF_RANGE = 2,
  MLXS_ERROR_OVERFLOW = 3,
  MLXS_ERROR_OUT_OF_MEMORY = 4,
  MLXS_ERROR_RUNTIME = 5,
  /// A caller's closure failed; `payload` is what it failed with.
  MLXS_ERROR_CLOSURE = 6,
  MLXS_ERROR_OTHER = 7,
} mlxs_error_kind;

typedef struct mlxs_error {
  int32_t kind;
  /// NUL-terminated, or null.
  char* text;
  /// With `MLXS_ERROR_CLOSURE`: the box that the closure handed over, or null.
  void* payload;
} mlxs_error;

/// Frees the text. A payload must have been taken out before.
void mlxs_error_clear(mlxs_error* error);

// ---- arrays -------------------------------------------------------------------------------

/// Copies the handle: one atomic increment. Lock-free.
void mlxs_array_clone(mlxs_array* out, const mlxs_array* a);
void mlxs_array_drop(mlxs_array* a);
void mlxs_array_list_free(mlxs_array_list* list);

/// Copies `nbytes` bytes of row-major data; with a null `data` they are zeros.
int mlxs_array_from_data(mlxs_array* out, const void* data, size_t nbytes, const int32_t* shape,
                         size_t ndim, int32_t dtype, mlxs_error* error);
/// Takes `data` over without a copy where the back end can; `release(payload)` is called exactly
/// once, possibly on one of MLX's own threads, and also when this function fails.
int mlxs_array_from_owned_data(mlxs_array* out, void* data, const int32_t* shape, size_t ndim,
                               int32_t dtype, void* payload, void (*release)(void* payload),
                               mlxs_error* error);
int mlxs_array_from_scalar(mlxs_array* out, const void* value, int32_t dtype, mlxs_error* error);

// The description of an array never changes, so these are lock-free.
size_t mlxs_array_ndim(const mlxs_array* a);
const int32_t* mlxs_array_shape(const mlxs_array* a);
size_t mlxs_array_size(const mlxs_array* a);
int32_t mlxs_array_dtype(const mlxs_array* a);
uintptr_t mlxs_array_id(const mlxs_array* a);

/// 0: not computed yet, 1: scheduled, 2: available.
int32_t mlxs_array_status(const mlxs_array* a);
/// Evaluates the array and describes its memory. `strides` receives `ndim` element strides.
int mlxs_array_read(const mlxs_array* a, const void** data, size_t* data_size, int64_t* strides,
                    bool* row_contiguous, mlxs_error* error);

// ---- evaluation ---------------------------------------------------------------------------

/// After a failure every array that the call would have computed holds the error: later
/// evaluations repeat it, none reads memory that the failed work left behind. Work that may fail
/// is waited for by both functions, so a failure belongs to the call that caused it.
int mlxs_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error);
int mlxs_async_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error);

/// How the shim waits without the caller's lock: the hook releases it, calls `body(context)` and
/// takes it again. Set once, before the first evaluation. No exception leaves `body`.
typedef void (*mlxs_unlocked_fn)(void (*body)(void* context), void* context);
void mlxs_set_unlocked(mlxs_unlocked_fn hook);

// ---- devices and streams ------------------------------------------------------------------

int mlxs_device_count(int32_t* out, int32_t device_type, mlxs_error* error);
int mlxs_set_default_device(int32_t device_type, int32_t device_index, mlxs_error* error);
/// Calls `visit(context, key, text, number)` for each property; `text` is null for a number.
int mlxs_device_info(int32_t device_type, int32_t device_index, void* context,
                     void (*visit)(void* context, const char* key, const char* text,
                                   uint64_t number),
                     mlxs_error* error);
/// A stream that any thread may use, under the caller's lock.
int mlxs_stream_new(mlxs_stream* out, int32_t device_type, int32_t device_index,
                    mlxs_error* error);
/// Makes `stream` the calling thread's default for its device.
int mlxs_stream_set_default(mlxs_stream stream, mlxs_error* error);
int mlxs_stream_synchronize(mlxs_stream stream, mlxs_error* error);

/// Calls `visit(context, stream)` for every stream of the process.
int mlxs_streams(void* context, void (*visit)(void* context, mlxs_stream stream),
                 mlxs_error* error);

// ---- memory -------------------------------------------------------------------------------

int mlxs_memory_active(size_t* out, mlxs_error* error);
int mlxs_memory_peak(size_t* out, mlxs_error* error);
int mlxs_memory_cache(size_t* out, mlxs_error* error);
int mlxs_memory_limit(size_t* out, mlxs_error* error);
int mlxs_memory_reset_peak(mlxs_error* error);
int mlxs_memory_set_limit(size_t* previous, size_t limit, mlxs_error* error);
int mlxs_memory_set_cache_limit(size_t* previous, size_t limit, mlxs_error* error);
int mlxs_memory_set_wired_limit(size_t* previous, size_t limit, mlxs_error* error);
int mlxs_memory_clear_cache(mlxs_error* error);

/// The size of the buffers behind evaluated arrays, each counted once.
int mlxs_memory_of_arrays(size_t* out, const mlxs_array* const* arrays, size_t n,
                          mlxs_error* error);
/// Does nothing: refers to the file that checks allocations, so that the linker keeps it.
void mlxs_keep_allocator(void);

// ---- dtypes -------------------------------------------------------------------------------

/// The dtype to which two promote. Lock-free.
int mlxs_promote_types(int32_t* out, int32_t a, int32_t b, mlxs_error* error);

// ---- einsum -------------------------------------------------------------------------------

/// The order of contraction: `visit_step(context, operands, n)` for each step, then
/// `visit_text(context, report)` once.
int mlxs_einsum_path(const char* subscripts, size_t subscripts_len,
                     const mlxs_array* const* operands, size_t n, void* context,
                     void (*visit_step)(void* context, const int32_t* operands, size_t n),
                     void (*visit_text)(void* context, const char* report), mlxs_error* error);

// ---- processes ----------------------------------------------------------------------------

/// An owning handle of a group of processes.
typedef struct mlxs_group {
  void* ctx;
} mlxs_group;
typedef enum mlxs_group_backend {
  MLXS_GROUP_ALONE = 0,
  MLXS_GROUP_RING = 1,
  MLXS_GROUP_MPI = 2,
  MLXS_GROUP_NCCL = 3,
  MLXS_GROUP_JACCL = 4,
} mlxs_group_backend;
typedef enum mlxs_collective_kind {
  MLXS_ALL_SUM = 0,
  MLXS_ALL_MAX = 1,
  MLXS_ALL_MIN = 2,
  MLXS_ALL_GATHER = 3,
  MLXS_SUM_SCATTER = 4,
  MLXS_SEND = 5,
} mlxs_collective_kind;

/// Touches no array: may run without the lock.
int mlxs_distributed_is_available(bool* out, const char* backend, size_t backend_len,
                                  mlxs_error* error);
/// May wait for other processes. Touches no array, so it may run without the lock, but not twice at
/// a time.
int mlxs_distributed_init(mlxs_group* out, bool strict, const char* backend, size_t backend_len,
                          mlxs_error* error);
/// A group of this process alone.
int mlxs_distributed_alone(mlxs_group* out, mlxs_error* error);
/// Waits for all work, then forgets the groups: the next `init` connects anew.
int mlxs_distributed_clear(mlxs_error* error);
int mlxs_group_clone(mlxs_group* out, mlxs_group group, mlxs_error* error);
void mlxs_group_free(mlxs_group group);
int32_t mlxs_group_rank(mlxs_group group);
int32_t mlxs_group_size(mlxs_group group);
mlxs_group_backend mlxs_group_backend_of(mlxs_group group);
int mlxs_group_split(mlxs_group* out, mlxs_group group, int32_t color, int32_t key,
                     mlxs_error* error);
int mlxs_collective(mlxs_array* out, mlxs_collective_kind kind, const mlxs_array* x, int32_t peer,
                    mlxs_group group, mlxs_stream stream, mlxs_error* error);
int mlxs_recv(mlxs_array* out, const int32_t* shape, size_t ndim, int32_t dtype, int32_t peer,
              mlxs_group group, mlxs_stream stream, mlxs_error* error);

// ---- custom kernels -----------------------------------------------------------------------

typedef struct mlxs_text {
  const char* data;
  size_t len;
} mlxs_text;
typedef struct mlxs_dims {
  const int32_t* data;
  size_t len;
} mlxs_dims;
/// An owning handle of a kernel.
typedef struct mlxs_kernel {
  void* ctx;
} mlxs_kernel;
typedef enum mlxs_kernel_kind {
  MLXS_KERNEL_METAL = 0,
  MLXS_KERNEL_CUDA = 1,
  /// `source` is compiled code; the names of inputs and outputs are not used.
  MLXS_KERNEL_CUDA_COMPILED = 2,
} mlxs_kernel_kind;
typedef struct mlxs_kernel_source {
  mlxs_kernel_kind kind;
  mlxs_text name;
  const mlxs_text* inputs;
  size_t n_inputs;
  const mlxs_text* outputs;
  size_t n_outputs;
  mlxs_text source;
  mlxs_text header;
  bool ensure_row_contiguous;
  bool atomic_outputs;
  /// 0: safe, 1: relaxed, 2: fast. Metal only.
  int32_t math_mode;
  /// Bytes; CUDA only.
  int32_t shared_memory;
} mlxs_kernel_source;
typedef enum mlxs_argument_kind {
  MLXS_ARGUMENT_BOOL = 0,
  MLXS_ARGUMENT_INT = 1,
  MLXS_ARGUMENT_DTYPE = 2,
  MLXS_ARGUMENT_FLOAT = 3,
} mlxs_argument_kind;
/// A template argument, or for compiled code a scalar parameter.
typedef struct mlxs_argument {
  mlxs_text name;
  mlxs_argument_kind kind;
  int32_t integer;
  float number;
} mlxs_argument;
typedef struct mlxs_opt_float {
  bool some;
  float value;
} mlxs_opt_float;
typedef struct mlxs_kernel_launch {
  const mlxs_dims* shapes;
  const int32_t* dtypes;
  size_t n_outputs;
  int32_t grid[3];
  int32_t threadgroup[3];
  const mlxs_argument* arguments;
  size_t n_arguments;
  mlxs_opt_float init_value;
  bool verbose;
} mlxs_kernel_launch;

int mlxs_kernel_new(mlxs_kernel* out, const mlxs_kernel_source* source, mlxs_error* error);
void mlxs_kernel_free(mlxs_kernel kernel);
int mlxs_kernel_call(mlxs_array_list* out, mlxs_kernel kernel, const mlxs_array* const* inputs,
                     size_t n_inputs, const mlxs_kernel_launch* launch, mlxs_stream stream,
                     mlxs_error* error);

/// Whether MLX was built with the back end.
int mlxs_metal_is_available(bool* out, mlxs_error* error);
int mlxs_cuda_is_available(bool* out, mlxs_error* error);
int mlxs_metal_start_capture(const char* path, size_t path_len, mlxs_error* error);
int mlxs_metal_stop_capture(mlxs_error* error);
int mlxs_metal_set_library_path(const char* path, size_t path_len, mlxs_error* error);
int mlxs_metal_library_path(void* context, void (*visit)(void* context, const char* path),
                            mlxs_error* error);

// ---- random state -------------------------------------------------------------------------

/// Seeds the calling thread's default generator.
int mlxs_random_seed(uint64_t seed, mlxs_error* error);

// ---- closures and transforms --------------------------------------------------------------

/// A caller's function. Inputs are borrowed; outputs are appended to `out` with
/// `mlxs_arrays_push`. Returns 0, or 1 with `*failure` set to a box that travels to the outermost
/// caller as the payload of `MLXS_ERROR_CLOSURE`.
typedef struct mlxs_arrays mlxs_arrays;
typedef int (*mlxs_call_fn)(void* payload, const mlxs_array* inputs, size_t n_inputs,
                            mlxs_arrays* out, void** failure);
/// custom_vjp: (primals, cotangents, outputs); custom_jvp: (primals, tangents) and `argnums`.
typedef int (*mlxs_call_vjp_fn)(void* payload, const mlxs_array* primals, size_t n_primals,
                                const mlxs_array* cotangents, size_t n_cotangents,
                                const mlxs_array* outputs, size_t n_outputs, mlxs_arrays* out,
                                void** failure);
typedef int (*mlxs_call_jvp_fn)(void* payload, const mlxs_array* primals, size_t n_primals,
                                const mlxs_array* tangents, size_t n_tangents,
                                const int32_t* argnums, size_t n_argnums, mlxs_arrays* out,
                                void** failure);
/// custom_vmap: writes `n_outputs` axes through `mlxs_axes_push`.
typedef struct mlxs_axes mlxs_axes;
typedef int (*mlxs_call_vmap_fn)(void* payload, const mlxs_array* inputs, size_t n_inputs,
                                 const int32_t* axes, size_t n_axes, mlxs_arrays* out,
                                 mlxs_axes* out_axes, void** failure);
typedef void (*mlxs_drop_fn)(void* payload);

void mlxs_arrays_push(mlxs_arrays* out, const mlxs_array* a);
void mlxs_axes_push(mlxs_axes* out, int32_t axis);

/// How the shim frees a failure box that no caller will ever see. Set once, before any closure
/// is made.
void mlxs_set_failure_drop(mlxs_drop_fn drop);

/// An owning handle of a function from arrays to arrays.
typedef struct mlxs_closure {
  void* ctx;
} mlxs_closure;
/// An owning handle of a function from arrays to (values, gradients).
typedef struct mlxs_value_and_grad {
  void* ctx;
} mlxs_value_and_grad;

/// `drop(payload)` runs exactly once, when the last owner goes, also when this function fails.
int mlxs_closure_new(mlxs_closure* out, void* payload, mlxs_call_fn call, mlxs_drop_fn drop,
                     mlxs_error* error);
void mlxs_closure_free(mlxs_closure closure);
int mlxs_closure_call(mlxs_array_list* out, mlxs_closure closure, const mlxs_array* inputs,
                      size_t n_inputs, mlxs_error* error);

int mlxs_value_and_grad_new(mlxs_value_and_grad* out, mlxs_closure closure, const int32_t* argnums,
                            size_t n_argnums, mlxs_error* error);
void mlxs_value_and_grad_free(mlxs_value_and_grad f);
int mlxs_value_and_grad_call(mlxs_array_list* values, mlxs_array_list* grads,
                             mlxs_value_and_grad f, const mlxs_array* inputs, size_t n_inputs,
                             mlxs_error* error);

int mlxs_vjp(mlxs_array_list* outputs, mlxs_array_list* products, mlxs_closure closure,
             const mlxs_array* primals, size_t n_primals, const mlxs_array* cotangents,
             size_t n_cotangents, mlxs_error* error);
int mlxs_jvp(mlxs_array_list* outputs, mlxs_array_list* products, mlxs_closure closure,
             const mlxs_array* primals, size_t n_primals, const mlxs_array* tangents,
             size_t n_tangents, mlxs_error* error);
int mlxs_checkpoint(mlxs_closure* out, mlxs_closure closure, mlxs_error* error);
/// `id` must never be reused: MLX keys its cache of compiled graphs by it.
int mlxs_compile(mlxs_closure* out, mlxs_closure closure, uintptr_t id, bool shapeless,
                 mlxs_error* error);
int mlxs_set_compile_mode(int32_t mode, mlxs_error* error);

/// A hook without a function pointer keeps MLX's own derivative. Each payload given is dropped
/// exactly once through its `drop`, also when this function fails.
typedef struct mlxs_hooks {
  void* vjp_payload;
  mlxs_call_vjp_fn vjp;
  mlxs_drop_fn vjp_drop;
  void* jvp_payload;
  mlxs_call_jvp_fn jvp;
  mlxs_drop_fn jvp_drop;
  void* vmap_payload;
  mlxs_call_vmap_fn vmap;
  mlxs_drop_fn vmap_drop;
} mlxs_hooks;
int mlxs_custom_function(mlxs_closure* out, mlxs_closure closure, mlxs_hooks hooks,
                         mlxs_error* error);

/// How many calls deep MLX's recursive walks of the graph of `arrays` go. Stops counting nodes
/// that it has seen, as those walks do.
size_t mlxs_graph_depth(const mlxs_arrays* arrays);
/// The same for adjacent handles.
size_t mlxs_graph_depth_of(const mlxs_array* arrays, size_t n);

// ---- compiled graphs, exported functions, graphs as text ----------------------------------

/// Keeps a thread's cache of compiled graphs alive, so that its end, and what it holds, can be
/// timed by the caller: MLX itself frees it when the thread ends, outside any lock.
typedef struct mlxs_compile_cache {
  void* ctx;
} mlxs_compile_cache;
/// The calling thread's.
int mlxs_compile_cache_hold(mlxs_compile_cache* out, mlxs_error* error);
/// Forgets `id`, on any thread.
int mlxs_compile_cache_erase(mlxs_compile_cache cache, uintptr_t id, mlxs_error* error);
void mlxs_compile_cache_free(mlxs_compile_cache cache);

/// Calls the closure on slices of the inputs along `in_axes` (-1: the whole input) and stacks each
/// of its outputs, however many, along a new first axis.
int mlxs_vmap_call(mlxs_array_list* out, mlxs_closure closure, const mlxs_array* inputs,
                   const int32_t* in_axes, size_t n_inputs, mlxs_error* error);

/// An owning handle of a file that traces of a function are being written to. The file is complete
/// when the handle has been freed. After a failed trace the handle may only be freed.
typedef struct mlxs_exporter {
  void* ctx;
} mlxs_exporter;
int mlxs_exporter_new(mlxs_exporter* out, const char* path, mlxs_closure closure, bool shapeless,
                      const char* metadata, size_t n_metadata, mlxs_error* error);
/// Calls the closure twice with `args` followed by `kwargs` in the order of their names.
int mlxs_exporter_trace(mlxs_exporter exporter, const mlxs_array* args, size_t n_args,
                        const char* const* names, const mlxs_array* kwargs, size_t n_kwargs,
                        mlxs_error* error);
void mlxs_exporter_free(mlxs_exporter exporter);

/// An owning handle of a function read from a file. The file must be one that MLX wrote: nothing
/// in it is checked.
typedef struct mlxs_imported {
  void* ctx;
} mlxs_imported;
int mlxs_import_function(mlxs_imported* out, const char* path, mlxs_error* error);
int mlxs_imported_call(mlxs_array_list* out, mlxs_imported imported, const mlxs_array* args,
                       size_t n_args, const char* const* names, const mlxs_array* kwargs,
                       size_t n_kwargs, mlxs_error* error);
/// Lives as long as the handle; not NUL-terminated. Lock-free.
const char* mlxs_imported_metadata(mlxs_imported imported, size_t* length);
void mlxs_imported_free(mlxs_imported imported);

/// Calls `write` once with the graph that `outputs` depend on, as text or in Graphviz's language.
/// `names` are those of `named`; other arrays are called A, B, C, ….
int mlxs_graph_write(bool dot, const mlxs_array* outputs, size_t n_outputs,
                     const char* const* names, const mlxs_array* named, size_t n_named,
                     void* context,
                     void (*write)(void* context, const char* text, size_t length),
                     mlxs_error* error);

// ---- products -----------------------------------------------------------------------------

/// c = alpha · a · b + beta · c for matrices of any strides, in elements; one of `c`'s must be 1.
/// With a beta of zero, `c` is not read. False if this processor has no faster way than the
/// caller's own, or no memory is left: then nothing has been done.
bool mlxs_sgemm(size_t m, size_t n, size_t inner, float alpha, const float* a, int64_t a_row,
                int64_t a_col, const float* b, int64_t b_row, int64_t b_col, float beta, float* c,
                int64_t c_row, int64_t c_col);

// ---- version ------------------------------------------------------------------------------

/// MLX's version at run time, static storage.
const char* mlxs_version(void);

typedef struct mlxs_opt_int {
  bool some;
  int32_t value;
} mlxs_opt_int;
typedef struct mlxs_opt_f32 {
  bool some;
  float value;
} mlxs_opt_f32;
typedef struct mlxs_opt_bool {
  bool some;
  bool value;
} mlxs_opt_bool;

#include "ops.gen.h"

#ifdef __cplusplus
}
#endif
