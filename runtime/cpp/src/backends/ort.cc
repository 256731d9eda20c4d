#include "backends/ort.h"

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "graph_file.h"
#include "status.h"

namespace rdeic::backends {
namespace {

/// One place to run graphs: the name that callers know it by, the provider of ONNX Runtime behind it, where its values
/// lie, and the forms of a graph that it runs.
struct Provider {
  const char* name;
  const char* provider;  // empty: the CPU's, which is always there
  const char* memory;
  std::vector<std::string_view> forms;
};

bool is_no_memory(std::string_view message) {
  return message.find("Failed to allocate memory") != message.npos || message.find("out of memory") != message.npos ||
         message.find("bad_alloc") != message.npos || message.find("pthread_create failed") != message.npos;
}

/// Throws what an exception of ONNX Runtime means while `what` was done.
[[noreturn]] void fail_with(const Ort::Exception& error, const std::string& what) {
  const std::string message = printable(error.what(), 300);
  if (is_no_memory(error.what())) {
    fail(Result::kOutOfMemory, "%s: ONNX Runtime found too little memory, or threads (%s). Use smaller tiles (tile_px)",
         what.c_str(), message.c_str());
  }
  fail(Result::kBackend, "ONNX Runtime %s, %s: %s", OrtGetApiBase()->GetVersionString(), what.c_str(), message.c_str());
}

/// The types that a bundle's tensors may have.
constexpr std::pair<DType, ONNXTensorElementDataType> kTypes[] = {
    {DType::kUint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {DType::kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DType::kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {DType::kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
};

std::optional<DType> dtype_from(ONNXTensorElementDataType type) {
  const auto* const found = std::ranges::find(kTypes, type, [](const auto& pair) { return pair.second; });
  return found == std::end(kTypes) ? std::nullopt : std::optional(found->first);
}

ONNXTensorElementDataType onnx_type(DType dtype) {
  const auto* const found = std::ranges::find(kTypes, dtype, [](const auto& pair) { return pair.first; });
  if (found == std::end(kTypes)) fail(Result::kInternal, "a graph's tensor cannot be %s", dtype_name(dtype));
  return found->second;
}

/// Turns ONNX Runtime's telemetry off, which it has from 1.29 on, unless the user has chosen.
void keep_to_itself() {
#if defined(_WIN32)
  if (!std::getenv("ORT_DISABLE_TELEMETRY")) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
}

/// Name of an input or output -> its type and rank, as text to compare and to show.
using Tensors = std::map<std::string, std::string>;

std::string tensor_text(const char* dtype, std::size_t rank) { return text("%s of rank %zu", dtype, rank); }

Tensors promised(const std::vector<TensorSpec>& specs) {
  Tensors tensors;
  for (const TensorSpec& spec : specs) tensors[spec.name] = tensor_text(dtype_name(spec.dtype), spec.shape.size());
  return tensors;
}

template <typename NameOf, typename TypeOf>
Tensors found(std::size_t count, NameOf name, TypeOf type) {
  Tensors tensors;
  for (std::size_t i = 0; i < count; ++i) {
    const Ort::TypeInfo info = type(i);
    std::string described = "no tensor";
    if (info.GetONNXType() == ONNX_TYPE_TENSOR) {
      const auto tensor = info.GetTensorTypeAndShapeInfo();
      const std::optional<DType> dtype = dtype_from(tensor.GetElementType());
      described = tensor_text(dtype ? dtype_name(*dtype) : "another type", tensor.GetDimensionsCount());
    }
    tensors[name(i)] = described;
  }
  return tensors;
}

void check_side(const GraphSpec& spec, const char* side, const Tensors& wanted, const Tensors& there) {
  if (wanted == there) return;
  for (const auto& [name, type] : wanted) {
    const auto at = there.find(name);
    if (at != there.end() && at->second == type) continue;
    fail(Result::kBundleCorrupt, "%s: bundle.json gives graph '%s' the %s '%s', %s; the file has %s",
         spec.file.path.c_str(), printable(spec.id).c_str(), side, printable(name).c_str(), type.c_str(),
         at == there.end() ? "none of that name" : at->second.c_str());
  }
  fail(Result::kBundleCorrupt, "%s: has %zu %ss, bundle.json gives graph '%s' %zu", spec.file.path.c_str(),
       there.size(), side, printable(spec.id).c_str(), wanted.size());
}

void check_io(const GraphSpec& spec, const Ort::Session& session) {
  const Ort::AllocatorWithDefaultOptions allocator;
  check_side(spec, "input", promised(spec.inputs),
             found(
                 session.GetInputCount(),
                 [&](std::size_t i) { return std::string(session.GetInputNameAllocated(i, allocator).get()); },
                 [&](std::size_t i) { return session.GetInputTypeInfo(i); }));
  check_side(spec, "output", promised(spec.outputs),
             found(
                 session.GetOutputCount(),
                 [&](std::size_t i) { return std::string(session.GetOutputNameAllocated(i, allocator).get()); },
                 [&](std::size_t i) { return session.GetOutputTypeInfo(i); }));
}

Ort::SessionOptions session_options(const Provider& provider, unsigned threads) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  // More threads than there are cores gain nothing, and each session has its own.
  options.SetIntraOpNumThreads(static_cast<int>(std::min(threads, std::max(std::thread::hardware_concurrency(), 1U))));
  // A pattern would be kept for every image size ever seen.
  options.DisableMemPattern();
  // Each session has threads of its own: those of one graph must not spin while another one computes.
  options.AddConfigEntry(kOrtSessionOptionsConfigAllowIntraOpSpinning, "0");
  if (std::string_view(provider.name) == "cuda") {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* made = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&made));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, decltype(api.ReleaseCUDAProviderOptions)> settings(
        made, api.ReleaseCUDAProviderOptions);
    // Of two ways to grow, the one that keeps no more than was asked for.
    const char* const keys[] = {"arena_extend_strategy", "cudnn_conv_algo_search"};
    const char* const values[] = {"kSameAsRequested", "HEURISTIC"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(made, keys, values, std::size(keys)));
    options.AppendExecutionProvider_CUDA_V2(*settings);
  } else if (*provider.provider != '\0') {
    options.AppendExecutionProvider("NvTensorRtRtx");
  }
  return options;
}

/// Has a session take weights from where they are mapped, instead of opening their files.
void add_weights(Ort::SessionOptions& options, const std::vector<MappedWeight>& weights) {
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::vector<std::string> names;
  std::vector<Ort::Value> values;
  for (const auto& [about, bytes, map] : weights) {
    names.push_back(about.name);
    // ONNX Runtime does not write to weights, but has one type for them and for outputs.
    values.push_back(Ort::Value::CreateTensor(memory, const_cast<std::uint8_t*>(bytes.data()), bytes.size(),
                                              about.shape.data(), about.shape.size(),
                                              static_cast<ONNXTensorElementDataType>(about.data_type)));
  }
  if (!names.empty()) options.AddExternalInitializers(names, values);
}

class OrtValue final : public Value {
 public:
  OrtValue(Ort::Value value, DType dtype)
      : value_(std::move(value)), dtype_(dtype), shape_(value_.GetTensorTypeAndShapeInfo().GetShape()) {
    const auto memory = value_.GetTensorMemoryInfo();
    if (memory.GetDeviceType() == OrtMemoryInfoDeviceType_CPU) {
      data_ = static_cast<const std::byte*>(value_.GetTensorRawData());
    }
  }

  DType dtype() const override { return dtype_; }
  const Shape& shape() const override { return shape_; }
  const std::byte* data() const override { return data_; }
  const Ort::Value& get() const { return value_; }

 private:
  Ort::Value value_;
  DType dtype_;
  Shape shape_;
  const std::byte* data_ = nullptr;
};

class OrtGraph final : public Graph {
 public:
  OrtGraph(const Provider& provider, const Ort::Env& env, const GraphSpec& spec, const Ort::SessionOptions& options,
           GraphFile file)
      : spec_(spec),
        weights_(std::move(file.weights)),
        device_(provider.memory, OrtDeviceAllocator, 0, OrtMemTypeDefault),
        session_(env, file.onnx.data(), file.onnx.size(), options) {
    check_io(spec, session_);
  }

  const GraphSpec& spec() const override { return spec_; }

  Values run(const Values& inputs, Location location) const override {
    try {
      Ort::IoBinding binding(session_);
      for (const auto& [name, value] : inputs) {
        if (const auto* const own = dynamic_cast<const OrtValue*>(value.get())) {
          binding.BindInput(name.c_str(), own->get());
        } else {
          binding.BindInput(name.c_str(), view_of(*value));
        }
      }
      for (const TensorSpec& output : spec_.outputs) {
        binding.BindOutput(output.name.c_str(), location == Location::kHost ? host_ : device_);
      }
      session_.Run(Ort::RunOptions{nullptr}, binding);
      Values outputs;
      std::vector<Ort::Value> made = binding.GetOutputValues();
      for (std::size_t i = 0; i < made.size(); ++i) {
        outputs.emplace(spec_.outputs[i].name, value_of(std::move(made[i]), spec_.outputs[i]));
      }
      return outputs;
    } catch (const Ort::Exception& error) {
      fail_with(error, "graph '" + printable(spec_.id) + "'");
    }
  }

 private:
  static ValuePtr value_of(Ort::Value made, const TensorSpec& output) {
    const std::optional<DType> dtype = dtype_from(made.GetTensorTypeAndShapeInfo().GetElementType());
    if (!dtype)
      fail(Result::kBundleCorrupt, "%s is of a type that no tensor of a bundle has", printable(output.name).c_str());
    return std::make_shared<const OrtValue>(std::move(made), *dtype);
  }

  /// Returns a view of a value on the host, which must outlive it.
  Ort::Value view_of(const Value& value) const {
    // ONNX Runtime does not write to its inputs, but has one type for them and for outputs.
    return Ort::Value::CreateTensor(host_, const_cast<std::byte*>(value.data()),
                                    count_of(value.shape()) * dtype_bytes(value.dtype()), value.shape().data(),
                                    value.shape().size(), onnx_type(value.dtype()));
  }

  const GraphSpec& spec_;
  std::vector<MappedWeight> weights_;  // which the session reads where they are mapped
  Ort::MemoryInfo host_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::MemoryInfo device_;
  mutable Ort::Session session_;  // Run is safe to call from many threads, but is not const
};

class OrtBackend final : public Backend {
 public:
  OrtBackend(Provider provider, unsigned threads)
      : provider_(std::move(provider)), name_(provider_.name), threads_(threads) {
    const char* version = OrtGetApiBase()->GetVersionString();
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
      fail(Result::kBackendUnavailable,
           "ONNX Runtime %s is older than the headers this library was built with (API %d)", version, ORT_API_VERSION);
    }
    try {
      keep_to_itself();
      env_ = Ort::Env(ORT_LOGGING_LEVEL_FATAL, "rdeic");
      if (*provider_.provider == '\0') return;
      const std::vector<std::string> available = Ort::GetAvailableProviders();
      if (std::ranges::find(available, provider_.provider) == available.end()) {
        fail(Result::kBackendUnavailable,
             "%s: ONNX Runtime %s was built without %s; use its GPU package, or backend cpu", name_.c_str(), version,
             provider_.provider);
      }
      session_options(provider_, threads_);  // loads the provider's library
    } catch (const Ort::Exception& error) {
      if (is_no_memory(error.what())) fail_with(error, name_);
      fail(Result::kBackendUnavailable, "%s: ONNX Runtime %s cannot start it: %s", name_.c_str(), version,
           printable(error.what(), 300).c_str());
    }
  }

  const std::string& name() const override { return name_; }
  std::span<const std::string_view> forms() const override { return provider_.forms; }

  std::unique_ptr<const Graph> load(const GraphSpec& spec) const override {
    GraphFile file = read_graph(spec);
    try {
      Ort::SessionOptions options = session_options(provider_, threads_);
      add_weights(options, file.weights);
      return std::make_unique<OrtGraph>(provider_, env_, spec, options, std::move(file));
    } catch (const Ort::Exception& error) {
      if (is_no_memory(error.what())) fail_with(error, spec.file.path.string());
      switch (error.GetOrtErrorCode()) {
        case ORT_NO_SUCHFILE:
        case ORT_NO_MODEL:
        case ORT_INVALID_PROTOBUF:
        case ORT_INVALID_GRAPH:
        case ORT_INVALID_ARGUMENT:
          fail(Result::kBundleCorrupt, "%s: not a graph that ONNX Runtime can read: %s", spec.file.path.c_str(),
               printable(error.what(), 300).c_str());
        default:
          fail_with(error, spec.file.path.string());
      }
    }
  }

 private:
  Provider provider_;
  std::string name_;
  unsigned threads_;
  Ort::Env env_{nullptr};
};

}  // namespace

std::unique_ptr<const Backend> open_cpu(unsigned threads) {
  return std::make_unique<OrtBackend>(Provider{"cpu", "", "Cpu", {std::begin(kForms), std::end(kForms)}}, threads);
}

#ifdef RDEIC_WITH_CUDA
std::unique_ptr<const Backend> open_cuda(unsigned threads) {
  return std::make_unique<OrtBackend>(Provider{"cuda", "CUDAExecutionProvider", "Cuda", {"fp32", "fp16", "fp16-cuda"}},
                                      threads);
}

std::unique_ptr<const Backend> open_tensorrt_rtx(unsigned threads) {
  return std::make_unique<OrtBackend>(
      Provider{"tensorrt-rtx", "NvTensorRTRTXExecutionProvider", "Cuda", {"fp32", "fp16", "int8"}}, threads);
}
#endif

}  // namespace rdeic::backends
