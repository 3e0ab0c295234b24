// Functions written to files (imported.cpp reads them), graphs as text, and caches of compiled
// graphs.
#include <algorithm>
#include <functional>
#include <map>
#include <ostream>
#include <sstream>
#include <unordered_set>
#include <variant>

#include "convert.hpp"
#include "cpu/support.hpp"
#include "mlx/compile_impl.h"
#include "mlx/graph_utils.h"
#include "mlx/primitives.h"

namespace {

using namespace shim;

using Arrays = std::vector<mx::array>;
using Function = std::function<Arrays(const Arrays&)>;
using Cache = std::shared_ptr<mx::detail::CompileCache>;

/// What `exporter_trace` needs besides MLX's own exporter.
struct Exporter {
  /// Positional arguments first, then those with a name, in the order of their names.
  std::function<Arrays(const mx::Args&, const mx::Kwargs&)> call;
  bool shapeless;
  mx::FunctionExporter exporter;
};

mx::Kwargs keywords(const char* const* names, const mlxs_array* arrays, size_t n) {
  mx::Kwargs out;
  for (size_t i = 0; i < n; ++i) {
    out.insert_or_assign(names[i], ref(&arrays[i]));
  }
  return out;
}

/// While it lives, this thread records none of our own primitives, which no file can hold.
class StockOnly {
 public:
  StockOnly() : before_(std::exchange(cpu::stock_only(), true)) {}
  ~StockOnly() {
    cpu::stock_only() = before_;
  }
  StockOnly(const StockOnly&) = delete;

 private:
  bool before_;
};

/// MLX writes the bytes of a constant without looking at its layout or whether it is computed.
void check_constants(const mx::ExportCallbackInput& node) {
  const auto found = node.find("constants");
  if (found == node.end()) {
    return;
  }
  const auto* constants = std::get_if<std::vector<std::pair<std::string, mx::array>>>(&found->second);
  if (constants == nullptr) {
    return;
  }
  for (const auto& [name, constant] : *constants) {
    mx::array a = constant;
    a.eval();
    if (!a.flags().row_contiguous || a.data_size() < a.size()) {
      std::ostringstream message;
      message << "[export_function] a captured array of " << a.ndim()
              << " dimensions is not laid out in row-major order; capture its `contiguous` copy";
      throw std::invalid_argument(message.str());
    }
  }
}

// ---- graphs ----------------------------------------------------------------------------------

/// Every array that `outputs` depend on, inputs before what uses them, one for all siblings.
/// A loop and not a recursion: graphs may be deeper than the stack.
Arrays in_order(const Arrays& outputs) {
  Arrays order;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<std::pair<mx::array, size_t>> stack;
  auto push = [&](const mx::array& a) {
    if (seen.insert(a.id()).second) {
      for (const auto& sibling : a.siblings()) {
        seen.insert(sibling.id());
      }
      stack.emplace_back(a, 0);
    }
  };
  for (const auto& output : outputs) {
    push(output);
    while (!stack.empty()) {
      auto& [a, next] = stack.back();
      if (next < a.inputs().size()) {
        const mx::array input = a.inputs()[next++];
        push(input);
      } else {
        order.push_back(a);
        stack.pop_back();
      }
    }
  }
  return order;
}

void write_arrays(std::ostream& os, mx::NodeNamer& namer, const Arrays& arrays) {
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto& a = arrays[i];
    os << (i == 0 ? "" : ", ") << namer.get_name(a) << " [(";
    for (size_t axis = 0; axis < a.ndim(); ++axis) {
      os << (axis == 0 ? "" : ",") << a.shape(static_cast<int>(axis));
    }
    os << "), " << a.dtype() << "]";
  }
}

void write_text(std::ostream& os, mx::NodeNamer& namer, const Arrays& outputs) {
  const auto order = in_order(outputs);
  Arrays inputs;
  std::copy_if(order.begin(), order.end(), std::back_inserter(inputs), [](const auto& a) {
    return !a.has_primitive();
  });
  os << "Inputs: ";
  write_arrays(os, namer, inputs);
  os << "\nOutputs: ";
  write_arrays(os, namer, outputs);
  os << "\n";
  for (const auto& a : order) {
    if (!a.has_primitive()) {
      continue;
    }
    os << a.primitive().name() << " ";
    write_arrays(os, namer, a.inputs());
    os << " -> ";
    write_arrays(os, namer, a.outputs());
    os << "\n";
  }
}

std::string quoted(const std::string& name) {
  std::string out = "\"";
  for (char c : name) {
    if (c == '"' || c == '\\') {
      out += '\\';
    }
    out += c;
  }
  return out + "\"";
}

void write_dot(std::ostream& os, mx::NodeNamer& namer, const Arrays& outputs) {
  const auto order = in_order(outputs);
  std::unordered_set<std::uintptr_t> used;
  for (const auto& a : order) {
    for (const auto& input : a.inputs()) {
      used.insert(input.id());
    }
  }
  os << "digraph {\n";
  size_t node = 0;
  for (const auto& a : order) {
    if (!a.has_primitive()) {
      os << "{ rank=source; " << quoted(namer.get_name(a)) << "; }\n";
      continue;
    }
    // Numbered rather than named by address, so that equal graphs give equal text.
    const auto id = node++;
    os << "{ " << id << " [label=" << quoted(a.primitive().name()) << ", shape=rectangle]; }\n";
    for (const auto& input : a.inputs()) {
      os << quoted(namer.get_name(input)) << " -> " << id << "\n";
    }
    for (const auto& output : a.outputs()) {
      os << "{ " << (used.count(output.id()) == 0 ? "rank=sink; " : "")
         << quoted(namer.get_name(output)) << "; }\n";
      os << id << " -> " << quoted(namer.get_name(output)) << "\n";
    }
  }
  os << "}\n";
}

} // namespace

bool& shim::cpu::stock_only() {
  static thread_local bool stock = false;
  return stock;
}

extern "C" {

int mlxs_compile_cache_hold(mlxs_compile_cache* out, mlxs_error* error) {
  return guard(error, [&] {
    auto cache = mx::detail::compile_cache().lock();
    if (!cache) {
      throw std::runtime_error("the thread is ending");
    }
    out->ctx = new Cache(std::move(cache));
  });
}

int mlxs_compile_cache_erase(mlxs_compile_cache cache, uintptr_t id, mlxs_error* error) {
  return guard(error, [&] { mx::detail::compile_erase(*static_cast<Cache*>(cache.ctx), id); });
}

void mlxs_compile_cache_free(mlxs_compile_cache cache) {
  auto* held = static_cast<Cache*>(cache.ctx);
  // The thread's own reference may go later, and without the lock: it must find nothing.
  mx::detail::compile_clear_cache(*held);
  delete held;
}

int mlxs_exporter_new(
    mlxs_exporter* out,
    const char* path,
    mlxs_closure closure,
    bool shapeless,
    const char* metadata,
    size_t n_metadata,
    mlxs_error* error) {
  return guard(error, [&] {
    auto call = [f = *static_cast<Function*>(closure.ctx)](
                    const mx::Args& args, const mx::Kwargs& kwargs) {
      const std::map<std::string, mx::array> sorted(kwargs.begin(), kwargs.end());
      Arrays inputs = args;
      for (const auto& [name, value] : sorted) {
        inputs.push_back(value);
      }
      return f(inputs);
    };
    out->ctx = new Exporter{
        call, shapeless,
        mx::exporter(path, call, shapeless, std::string(metadata, n_metadata))};
  });
}

int mlxs_exporter_trace(
    mlxs_exporter exporter,
    const mlxs_array* args,
    size_t n_args,
    const char* const* names,
    const mlxs_array* kwargs,
    size_t n_kwargs,
    mlxs_error* error) {
  return guard(error, [&] {
    StockOnly stock;
    auto& self = *static_cast<Exporter*>(exporter.ctx);
    const auto positional = vec(args, n_args);
    const auto named = keywords(names, kwargs, n_kwargs);
    mx::exporter(mx::ExportCallback(check_constants), self.call, self.shapeless)(positional, named);
    self.exporter(positional, named);
  });
}

void mlxs_exporter_free(mlxs_exporter exporter) {
  delete static_cast<Exporter*>(exporter.ctx);
}

int mlxs_graph_write(
    bool dot,
    const mlxs_array* outputs,
    size_t n_outputs,
    const char* const* names,
    const mlxs_array* named,
    size_t n_named,
    void* context,
    void (*write)(void* context, const char* text, size_t length),
    mlxs_error* error) {
  return guard(error, [&] {
    mx::NodeNamer namer;
    for (size_t i = 0; i < n_named; ++i) {
      namer.set_name(ref(&named[i]), names[i]);
    }
    std::ostringstream os;
    const auto arrays = vec(outputs, n_outputs);
    dot ? write_dot(os, namer, arrays) : write_text(os, namer, arrays);
    const auto text = os.str();
    write(context, text.data(), text.size());
  });
}

} // extern "C"
