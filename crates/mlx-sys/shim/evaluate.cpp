// Evaluation: waiting without the caller's lock, and failures that stay with their arrays.
#include "evaluate.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "mlx/event.h"
#include "mlx/primitives.h"
#include "mlx/scheduler.h"

namespace {

using namespace shim;

/// What an array is made of after its evaluation failed: evaluating it again repeats the error
/// instead of exposing memory that was never written.
class Failed : public mx::Primitive {
 public:
  Failed(mx::Stream stream, std::string message)
      : mx::Primitive(stream), message_(std::move(message)) {}

  void eval_cpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(message_);
  }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(message_);
  }
  const char* name() const override {
    return "Failed";
  }

 private:
  std::string message_;
};

std::atomic<mlxs_unlocked_fn> unlock_hook{nullptr};

/// Whether an operation that may fail on a worker thread has ever been recorded. MLX keeps such a
/// failure with the stream, gives it to whoever looks first, and leaves the arrays of the failed
/// work readable though nothing wrote them. As long as this is false, none of that can happen.
std::atomic<bool> fallible_recorded{false};
std::atomic<bool> collective_recorded{false};
std::atomic<bool> lost_ring{false};

bool named(const mx::Primitive& primitive, const std::string_view* names, size_t count) {
  const std::string_view name = primitive.name();
  return std::find(names, names + count, name) != names + count;
}

/// Work that may fail on a worker thread: LAPACK's, and scattering fewer values than a mask may ask
/// for, as imported functions do. What depends on dtypes alone is refused before it is recorded.
bool may_fail(const mx::array& a) {
  static const std::string_view lapack[] = {
      "Inverse", "Cholesky", "LUF", "QRF", "SVD", "Eig", "Eigh"};
  static const std::string_view masked[] = {"MaskedScatter"};
  if (named(a.primitive(), masked, 1)) {
    return a.inputs()[2].size() < a.inputs()[1].size();
  }
  return named(a.primitive(), lapack, std::size(lapack));
}

/// Primitives that wait for another process. On a GPU they are work like any other.
bool is_collective(const mx::Primitive& primitive) {
  static const std::string_view names[] = {
      "Sum AllReduce", "Max AllReduce", "Min AllReduce", "AllGather", "Send", "Recv",
      "Sum ReduceScatter"};
  // `stream` is not const in MLX's interface, although it only reads.
  auto& stream = const_cast<mx::Primitive&>(primitive).stream();
  return stream.device == mx::Device::cpu && named(primitive, names, std::size(names));
}

/// An array's description, held without counting as a use of it.
using Weak = std::weak_ptr<void>;

const std::shared_ptr<void>& shared(const mx::array& a) {
  // An array is exactly one shared pointer; `convert.hpp` asserts the size.
  return reinterpret_cast<const std::shared_ptr<void>&>(a);
}

struct Work {
  std::vector<Weak> nodes;
  std::vector<mx::Stream> streams;
};

/// Everything that evaluating `outputs` would compute, or nothing if none of it may fail.
Work fallible_work(const std::vector<mx::array>& outputs) {
  Work work;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> stack(outputs);
  bool fallible = false;
  while (!stack.empty()) {
    auto a = std::move(stack.back());
    stack.pop_back();
    if (a.status() == mx::array::Status::available || !seen.insert(a.id()).second) {
      continue;
    }
    work.nodes.emplace_back(shared(a));
    if (!a.has_primitive()) {
      continue;
    }
    fallible |= may_fail(a);
    auto stream = a.primitive().stream();
    if (std::find(work.streams.begin(), work.streams.end(), stream) == work.streams.end()) {
      work.streams.push_back(stream);
    }
    for (const auto& in : a.inputs()) {
      stack.push_back(in);
    }
    for (const auto& sibling : a.siblings()) {
      stack.push_back(sibling);
    }
  }
  if (!fallible) {
    work.nodes.clear();
  }
  return work;
}

/// Replaces what a failed evaluation left behind by the error itself.
void poison(const std::vector<Weak>& nodes, mx::Stream stream, const std::string& message) {
  auto failed = std::make_shared<Failed>(stream, message);
  for (const auto& weak : nodes) {
    auto alive = weak.lock();
    if (!alive) {
      continue;
    }
    auto& a = reinterpret_cast<mx::array&>(alive);
    if (a.has_primitive() && a.status() == mx::array::Status::unscheduled) {
      // It still has its graph: evaluating that again reports the same cause.
      continue;
    }
    a.detach();
    a.attach_event(mx::Event{});
    a.primitive_ptr() = failed;
    a.set_status(mx::array::Status::unscheduled);
  }
}

/// Starts the work. Returns false if it had to be finished at once: inside a trace MLX allows
/// nothing else.
bool start(const std::vector<mx::array>& arrays) {
  if (std::any_of(arrays.begin(), arrays.end(), [](const auto& a) { return a.is_tracer(); })) {
    mx::eval(arrays);
    return false;
  }
  try {
    mx::async_eval(arrays);
    return true;
  } catch (const std::invalid_argument& e) {
    if (std::string_view(e.what()).find("[async_eval]") == std::string_view::npos) {
      throw;
    }
  }
  mx::eval(arrays);
  return false;
}

bool on_gpu(const mx::array& a) {
  return a.has_primitive() && a.primitive().stream().device == mx::Device::gpu;
}

/// An array of nobody's that becomes available with `a`, for waiting without the lock: MLX exports
/// no way to wait for an event, and `a` itself may be looked at by others meanwhile.
mx::array stand_in(const mx::array& a) {
  mx::array waiting(mx::Shape{}, mx::bool_, nullptr, {});
  waiting.attach_event(a.event());
  waiting.set_status(mx::array::Status::evaluated);
  return waiting;
}

/// Work that cannot fail in the background. Only waiting for a CPU stream releases the lock: MLX's
/// events of CPU streams are safe to wait for from any thread.
void compute_plain(const std::vector<mx::array>& arrays) {
  if (std::any_of(arrays.begin(), arrays.end(), on_gpu)) {
    mx::eval(arrays);
    return;
  }
  if (!start(arrays)) {
    return;
  }
  for (auto a : arrays) {
    if (!a.is_available() && a.event().valid()) {
      if (a.event().stream().device == mx::Device::cpu) {
        auto waiting = stand_in(a);
        unlocked([&] { waiting.wait(); });
      }
    }
    a.wait();
  }
}

/// Whether an operation between processes is on a stream, which may wait for a peer.
bool holds_lane(int stream);

/// Waits for a stream, whatever becomes of its work.
void finish(mx::Stream s) {
  try {
    mx::synchronize(s);
  } catch (const std::exception&) {
  }
}

/// The CPU streams that were made here; MLX lists those of its own threads only. Never destroyed,
/// as it is read when the process ends. Guarded by the caller's lock.
std::vector<mx::Stream>& own_streams() {
  static auto* streams = new std::vector<mx::Stream>;
  return *streams;
}

/// Waits for all streams but those that may wait for a peer.
void finish_streams() {
  for (const auto& s : own_streams()) {
    if (!holds_lane(s.index)) {
      finish(s);
    }
  }
}

/// MLX counts work as under way and is then refused by a stream that has failed. It would wait for
/// such work for ever once there is enough of it.
void forget_lost_tasks() {
  finish_streams();
  const mx::Stream any(0, mx::Device(mx::Device::cpu));
  while (mx::scheduler::n_active_tasks() > 0) {
    mx::scheduler::notify_task_completion(any);
  }
}

/// Work without operations between processes. What may fail is waited for under the lock, so that
/// nobody else can be handed its error or look at its arrays first.
void compute(const std::vector<mx::array>& arrays, bool async) {
  Work work;
  if (fallible_recorded.load(std::memory_order_relaxed)) {
    work = fallible_work(arrays);
  }
  if (work.nodes.empty()) {
    async ? mx::async_eval(arrays) : compute_plain(arrays);
    return;
  }
  auto stream = mx::default_stream(mx::Device(mx::Device::cpu));
  try {
    mx::eval(arrays);
  } catch (const std::exception& e) {
    poison(work.nodes, stream, e.what());
    // The error went from stream to stream, and only one of them has given it up.
    for (const auto& s : work.streams) {
      finish(s);
    }
    forget_lost_tasks();
    throw;
  }
}

// ---- operations between processes ---------------------------------------------------------

/// What is under way on the streams of such operations. At most one operation is on a stream at a
/// time, so that its error cannot be mistaken for another's; and no other evaluation touches its
/// array before the outcome is known. Guarded by the caller's lock, except for the waiting.
std::mutex lanes_mutex;
std::condition_variable lanes_changed;
std::map<int, std::uintptr_t> lanes;

bool holds_lane(int stream) {
  std::lock_guard lock(lanes_mutex);
  return lanes.count(stream) != 0;
}

bool under_way(std::uintptr_t id) {
  return std::any_of(
      lanes.begin(), lanes.end(), [id](const auto& lane) { return lane.second == id; });
}

template <typename Predicate>
void wait_for_lanes(Predicate&& done) {
  unlocked([&] {
    std::unique_lock lock(lanes_mutex);
    lanes_changed.wait(lock, done);
  });
}

/// Holds a stream for one operation.
class Lane {
 public:
  Lane(int stream, std::uintptr_t id) : stream_(stream) {
    for (;;) {
      {
        std::lock_guard lock(lanes_mutex);
        if (lanes.try_emplace(stream, id).second) {
          return;
        }
      }
      wait_for_lanes([stream] { return lanes.count(stream) == 0; });
    }
  }
  ~Lane() {
    {
      std::lock_guard lock(lanes_mutex);
      lanes.erase(stream_);
    }
    lanes_changed.notify_all();
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

 private:
  int stream_;
};

/// Runs after everything given to the stream before it, and takes the stream's error.
class Outcome {
 public:
  void take(mx::Stream stream) {
    std::optional<std::string> error;
    try {
      mx::scheduler::check_error(stream);
    } catch (const std::exception& e) {
      error = e.what();
    }
    {
      std::lock_guard lock(mutex_);
      error_ = std::move(error);
      done_ = true;
    }
    changed_.notify_all();
  }
  std::optional<std::string> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return error_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_{false};
  std::optional<std::string> error_;
};

void run_collective(mx::array a) {
  auto stream = a.primitive().stream();
  if (ring_is_lost()) {
    throw std::runtime_error(
        "the connection to another process was lost earlier; clear_backends and init start anew");
  }
  if (a.is_tracer()) {
    mx::eval({a});
    return;
  }
  // Its operands first: then the stream holds nothing but the operation itself.
  compute(a.inputs(), false);
  Lane lane(stream.index, a.id());
  if (a.status() != mx::array::Status::unscheduled) {
    return;
  }
  mx::async_eval({a});
  auto outcome = std::make_shared<Outcome>();
  mx::scheduler::enqueue(stream, [outcome, stream] { outcome->take(stream); });
  std::optional<std::string> error;
  unlocked([&] { error = outcome->wait(); });
  if (!error) {
    a.wait();
    return;
  }
  if (error->find("connection") != std::string::npos) {
    lost_ring.store(true);
  }
  poison({Weak(shared(a))}, stream, *error);
  throw std::runtime_error(*error);
}

/// Finishes the operations between processes that `outputs` need, in the order of the graph, which
/// is the same in every process that runs the same program.
void settle_collectives(const std::vector<mx::array>& outputs) {
  std::vector<mx::array> found;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<std::pair<mx::array, size_t>> stack;
  auto push = [&](const mx::array& a) {
    if (a.status() != mx::array::Status::available && seen.insert(a.id()).second) {
      stack.emplace_back(a, 0);
    }
  };
  for (const auto& output : outputs) {
    push(output);
    while (!stack.empty()) {
      auto& [a, next] = stack.back();
      if (next < a.inputs().size()) {
        push(a.inputs()[next++]);
        continue;
      }
      if (a.status() == mx::array::Status::evaluated ||
          (a.has_primitive() && is_collective(a.primitive()))) {
        found.push_back(a);
      }
      stack.pop_back();
    }
  }
  for (const auto& a : found) {
    auto id = a.id();
    bool waits;
    {
      std::lock_guard lock(lanes_mutex);
      waits = under_way(id);
    }
    if (waits) {
      wait_for_lanes([id] { return !under_way(id); });
    }
    if (a.status() == mx::array::Status::unscheduled && a.has_primitive() &&
        is_collective(a.primitive())) {
      run_collective(a);
    }
  }
}

} // namespace

void shim::finish_at_exit(mx::Stream s) {
  static const bool registered = std::atexit(finish_streams) == 0;
  if (registered && s.device == mx::Device::cpu) {
    own_streams().push_back(s);
  }
}

void shim::mark_fallible() {
  fallible_recorded.store(true, std::memory_order_relaxed);
}

void shim::mark_collective() {
  collective_recorded.store(true, std::memory_order_relaxed);
}

bool shim::ring_is_lost() {
  return lost_ring.load();
}

void shim::forget_lost_ring() {
  lost_ring.store(false);
}

void shim::unlocked(void (*body)(void*), void* context) {
  struct Call {
    void (*body)(void*);
    void* context;
    std::exception_ptr failure;
  } call{body, context, nullptr};
  auto run = [](void* raw) {
    auto& call = *static_cast<Call*>(raw);
    try {
      call.body(call.context);
    } catch (...) {
      // No exception crosses the caller's frames.
      call.failure = std::current_exception();
    }
  };
  if (auto hook = unlock_hook.load()) {
    hook(run, &call);
  } else {
    run(&call);
  }
  if (call.failure) {
    std::rethrow_exception(call.failure);
  }
}

void shim::evaluate(const std::vector<mx::array>& arrays, bool async) {
  vet(arrays);
  if (collective_recorded.load(std::memory_order_relaxed)) {
    settle_collectives(arrays);
  }
  compute(arrays, async);
}

extern "C" {

void mlxs_set_unlocked(mlxs_unlocked_fn hook) {
  unlock_hook.store(hook);
}

int mlxs_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error) {
  return guard(error, [&] { evaluate(vec(arrays, n), false); });
}

int mlxs_async_eval(const mlxs_array* const* arrays, size_t n, mlxs_error* error) {
  return guard(error, [&] { evaluate(vec(arrays, n), true); });
}

} // extern "C"
