// Functions read from files.
//
// A file that was exported shapeless serves other shapes than those of its traces, by the same
// replay as compiled functions and with as few checks: see shapeless.cpp. Its traces come from the
// file, so their shapes must be found out first. MLX shows them in one place only, the message for
// a call that fits no trace.
#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "evaluate.hpp"
#include "shapeless.hpp"

namespace {

using namespace shim;

using Arrays = std::vector<mx::array>;

/// The arguments of one trace, as arrays without values.
struct Signature {
  size_t positional = 0;
  size_t named = 0;
  Arrays args;
  std::map<std::string, mx::array> kwargs;

  bool whole() const {
    return args.size() == positional && kwargs.size() == named;
  }
};

/// Reads what `ImportedFunction` says of its traces.
class Listing {
 public:
  explicit Listing(const std::string& message) {
    std::istringstream lines(message);
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line) && !line.empty()) {
      line.compare(0, 3, "   ") == 0 ? argument(line.substr(3)) : function(line);
    }
    for (const auto& signature : signatures) {
      require(signature.whole());
    }
  }

  std::vector<Signature> signatures;

 private:
  /// Names of arguments may hold anything, also line breaks; such a listing says nothing for sure.
  static void require(bool holds) {
    if (!holds) {
      throw std::invalid_argument(
          "[import_function] the arguments of the file's traces cannot be told apart");
    }
  }

  /// The number that follows `before` in `line`.
  static size_t number(const std::string& line, const char* before) {
    const auto place = line.find(before);
    require(place != std::string::npos);
    size_t value = 0;
    const char* first = line.data() + place + std::strlen(before);
    require(std::from_chars(first, line.data() + line.size(), value).ec == std::errc());
    return value;
  }

  /// ` 1. Function with 2 positional inputs and 1 keyword inputs:`
  void function(const std::string& line) {
    auto& signature = signatures.emplace_back();
    signature.positional = number(line, ". Function with ");
    signature.named = number(line, " positional inputs and ");
  }

  /// `1: (2,3) float32` or `"name": (2,3) float32`
  void argument(const std::string& line) {
    const auto colon = line.rfind(": (");
    const auto close = line.rfind(") ");
    require(!signatures.empty() && colon != std::string::npos && close != std::string::npos &&
            close > colon);
    const auto dims = line.substr(colon + 3, close - colon - 3);
    mx::array placeholder(shape(dims), dtype(line.substr(close + 2)), nullptr, {});
    auto& signature = signatures.back();
    if (signature.args.size() < signature.positional) {
      signature.args.push_back(placeholder);
      return;
    }
    require(colon >= 2 && line.front() == '"' && line[colon - 1] == '"');
    signature.kwargs.insert_or_assign(line.substr(1, colon - 2), placeholder);
  }

  static mx::Shape shape(const std::string& text) {
    mx::Shape dims;
    const char* next = text.data();
    const char* end = next + text.size();
    while (next < end) {
      int32_t dim = 0;
      const auto [after, failure] = std::from_chars(next, end, dim);
      require(failure == std::errc() && dim >= 0 && (after == end || *after == ','));
      dims.push_back(dim);
      next = after == end ? end : after + 1;
    }
    return dims;
  }

  static mx::Dtype dtype(const std::string& name) {
    for (int32_t code = 0; code < 14; ++code) {
      std::ostringstream known;
      known << shim::dtype(code);
      if (known.str() == name) {
        return shim::dtype(code);
      }
    }
    require(false);
    return mx::float32;
  }
};

/// A function from a file; `traces` if it serves other shapes than those it was traced with.
struct Imported {
  mx::ImportedFunction function;
  std::unique_ptr<Traces> traces;
};

Imported* self(mlxs_imported imported) {
  return static_cast<Imported*>(imported.ctx);
}

/// MLX reads this from the head of the file and keeps it to itself: version, count, flag.
bool is_shapeless(const char* path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t version = 0;
  int32_t count = 0;
  char flag = 0;
  file.read(reinterpret_cast<char*>(&version), sizeof(version));
  file.seekg(static_cast<std::streamoff>(version), std::ios::cur);
  file.read(reinterpret_cast<char*>(&count), sizeof(count));
  file.read(&flag, 1);
  if (!file) {
    throw std::runtime_error("[import_function] the head of the file cannot be read");
  }
  return flag != 0;
}

std::string listing(const mx::ImportedFunction& function) {
  try {
    // Of more dimensions than any trace has, so that none serves.
    function(Arrays{mx::array(mx::Shape(200, 1), mx::bool_, nullptr, {})}, mx::Kwargs{});
  } catch (const std::invalid_argument& refusal) {
    return refusal.what();
  }
  throw std::invalid_argument("[import_function] the file serves what no file can");
}

std::unique_ptr<Traces> traces_of(const mx::ImportedFunction& function) {
  auto traces = std::make_unique<Traces>();
  for (const auto& signature : Listing(listing(function)).signatures) {
    auto inputs = signature.args;
    for (const auto& [name, value] : signature.kwargs) {
      inputs.push_back(value);
    }
    const mx::Kwargs kwargs(signature.kwargs.begin(), signature.kwargs.end());
    traces->record(inputs, function(signature.args, kwargs));
  }
  return traces;
}

} // namespace

extern "C" {

int mlxs_import_function(mlxs_imported* out, const char* path, mlxs_error* error) {
  return guard(error, [&] {
    auto function = mx::import_function(path);
    // Nobody recorded the file's operations here, and any of them may be in it.
    mark_fallible();
    mark_collective();
    auto traces = is_shapeless(path) ? traces_of(function) : nullptr;
    out->ctx = new Imported{std::move(function), std::move(traces)};
  });
}

int mlxs_imported_call(
    mlxs_array_list* out,
    mlxs_imported imported,
    const mlxs_array* args,
    size_t n_args,
    const char* const* names,
    const mlxs_array* kwargs,
    size_t n_kwargs,
    mlxs_error* error) {
  return guard(error, [&] {
    std::map<std::string, mx::array> named;
    for (size_t i = 0; i < n_kwargs; ++i) {
      named.insert_or_assign(names[i], ref(&kwargs[i]));
    }
    auto inputs = vec(args, n_args);
    auto outputs = self(imported)->function(inputs, mx::Kwargs(named.begin(), named.end()));
    if (const auto& traces = self(imported)->traces) {
      for (const auto& [name, value] : named) {
        inputs.push_back(value);
      }
      traces->check(
          inputs, outputs, "import_function", "Export this function without `shapeless`");
    }
    store(out, std::move(outputs));
  });
}

const char* mlxs_imported_metadata(mlxs_imported imported, size_t* length) {
  const auto& metadata = self(imported)->function.metadata();
  *length = metadata.size();
  return metadata.data();
}

void mlxs_imported_free(mlxs_imported imported) {
  delete self(imported);
}

} // extern "C"
