// Groups of processes and the operations between them.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <typeinfo>

#include "evaluate.hpp"
#include "mlx/distributed/distributed.h"
#include "mlx/distributed/distributed_impl.h"
#include "mlx/distributed/ops.h"

namespace {

using namespace shim;
namespace dist = mx::distributed;

/// A group of one process. MLX has the same but offers no way to ask for it.
class Alone : public dist::detail::GroupImpl {
 public:
  mx::Stream communication_stream(mx::StreamOrDevice s) override {
    return mx::to_stream(s);
  }
  int rank() override {
    return 0;
  }
  int size() override {
    return 1;
  }
  std::shared_ptr<GroupImpl> split(int, int) override {
    return std::make_shared<Alone>();
  }
  void all_sum(const mx::array&, mx::array&, mx::Stream) override {
    refuse();
  }
  void all_gather(const mx::array&, mx::array&, mx::Stream) override {
    refuse();
  }
  void send(const mx::array&, int, mx::Stream) override {
    refuse();
  }
  void recv(mx::array&, int, mx::Stream) override {
    refuse();
  }
  void all_max(const mx::array&, mx::array&, mx::Stream) override {
    refuse();
  }
  void all_min(const mx::array&, mx::array&, mx::Stream) override {
    refuse();
  }
  void sum_scatter(const mx::array&, mx::array&, mx::Stream) override {
    refuse();
  }

 private:
  [[noreturn]] static void refuse() {
    throw std::runtime_error("a group of one process has nobody to talk to");
  }
};

/// Work on a stream refers to its group by address, so groups live until no stream has work left.
std::mutex kept_mutex;
std::vector<std::shared_ptr<dist::detail::GroupImpl>>& kept() {
  static auto* groups = new std::vector<std::shared_ptr<dist::detail::GroupImpl>>();
  return *groups;
}

dist::Group& group(mlxs_group g) {
  if (g.ctx == nullptr) {
    throw std::invalid_argument("there is no group");
  }
  return *static_cast<dist::Group*>(g.ctx);
}

void hand_out(mlxs_group* out, dist::Group g) {
  std::lock_guard lock(kept_mutex);
  auto& list = kept();
  if (std::find(list.begin(), list.end(), g.raw_group()) == list.end()) {
    list.push_back(g.raw_group());
  }
  out->ctx = new dist::Group(std::move(g));
}

/// Which back end made the group: MLX does not say, but the class is one of a few.
mlxs_group_backend backend_of(const dist::Group& g) {
  const auto& impl = *g.raw_group();
  const char* name = typeid(impl).name();
  if (std::strstr(name, "RingGroup") && !std::strstr(name, "jaccl")) {
    return MLXS_GROUP_RING;
  }
  if (std::strstr(name, "MPIGroup")) {
    return MLXS_GROUP_MPI;
  }
  if (std::strstr(name, "NCCLGroup")) {
    return MLXS_GROUP_NCCL;
  }
  if (std::strstr(name, "Alone") || std::strstr(name, "EmptyGroup")) {
    return MLXS_GROUP_ALONE;
  }
  return MLXS_GROUP_JACCL;
}

} // namespace

extern "C" {

int mlxs_distributed_is_available(
    bool* out,
    const char* backend,
    size_t backend_len,
    mlxs_error* error) {
  return guard(error, [&] { *out = dist::is_available(text(backend, backend_len)); });
}

int mlxs_distributed_init(
    mlxs_group* out,
    bool strict,
    const char* backend,
    size_t backend_len,
    mlxs_error* error) {
  return guard(error, [&] { hand_out(out, dist::init(strict, text(backend, backend_len))); });
}

int mlxs_distributed_alone(mlxs_group* out, mlxs_error* error) {
  return guard(error, [&] { hand_out(out, dist::Group(std::make_shared<Alone>())); });
}

int mlxs_distributed_clear(mlxs_error* error) {
  return guard(error, [&] {
    for (const auto& s : mx::get_streams()) {
      try {
        mx::synchronize(s);
      } catch (const std::exception&) {
        // It belongs to an evaluation that has reported it, or that nobody waits for any more.
      }
    }
    dist::clear_backends();
    std::lock_guard lock(kept_mutex);
    std::erase_if(kept(), [](const auto& g) { return g.use_count() == 1; });
    forget_lost_ring();
  });
}

int mlxs_group_clone(mlxs_group* out, mlxs_group g, mlxs_error* error) {
  return guard(error, [&] { out->ctx = new dist::Group(group(g)); });
}

void mlxs_group_free(mlxs_group g) {
  delete static_cast<dist::Group*>(g.ctx);
}

int32_t mlxs_group_rank(mlxs_group g) {
  return group(g).rank();
}

int32_t mlxs_group_size(mlxs_group g) {
  return group(g).size();
}

mlxs_group_backend mlxs_group_backend_of(mlxs_group g) {
  return backend_of(group(g));
}

int mlxs_group_split(mlxs_group* out, mlxs_group g, int32_t color, int32_t key, mlxs_error* error) {
  return guard(error, [&] { hand_out(out, group(g).split(color, key)); });
}

int mlxs_collective(
    mlxs_array* out,
    mlxs_collective_kind kind,
    const mlxs_array* x,
    int32_t peer,
    mlxs_group g,
    mlxs_stream s,
    mlxs_error* error) {
  return guard(error, [&] {
    mark_collective();
    const auto& a = ref(x);
    const auto& members = group(g);
    auto where = stream(s);
    switch (kind) {
      case MLXS_ALL_SUM:
        return store(out, dist::all_sum(a, members, where));
      case MLXS_ALL_MAX:
        return store(out, dist::all_max(a, members, where));
      case MLXS_ALL_MIN:
        return store(out, dist::all_min(a, members, where));
      case MLXS_ALL_GATHER:
        return store(out, dist::all_gather(a, members, where));
      case MLXS_SUM_SCATTER:
        return store(out, dist::sum_scatter(a, members, where));
      case MLXS_SEND:
        return store(out, dist::send(a, peer, members, where));
    }
    throw std::invalid_argument("unknown operation between processes");
  });
}

int mlxs_recv(
    mlxs_array* out,
    const int32_t* dims,
    size_t ndim,
    int32_t code,
    int32_t peer,
    mlxs_group g,
    mlxs_stream s,
    mlxs_error* error) {
  return guard(error, [&] {
    mark_collective();
    store(out, dist::recv(shape(dims, ndim), dtype(code), peer, group(g), stream(s)));
  });
}

} // extern "C"
