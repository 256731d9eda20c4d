#include "backends/ort.h"

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string_view>

#include "graph_file.h"
#include "status.h"

namespace rdeic::backends {
namespace {

/// One place to run graphs: the name that callers know it by, the provider of ONNX Runtime behind it, where its values
/// lie, and the forms of a graph that it runs, the one it runs best first.
struct Provider {
  const char* name;
  const char* provider;  // empty: the CPU's, which is always there
  const char* memory;
  std::map<std::string_view, std::vector<const char*>> forms;
};

const Provider* find_provider(const std::string& name) {
  // 8-bit activations run in the CPU's integer kernels only when unsigned and with quantised outputs: the form
  // int8-cpu. It takes half the time of float32, so it comes first where there is one.
  static const Provider kProviders[] = {
      {"cpu",
       "",
       "Cpu",
       {{"auto", {"int8-cpu", "fp32", "fp16", "int8"}},
        {"fp32", {"fp32"}},
        {"fp16", {"fp16"}},
        {"int8", {"int8-cpu", "int8"}}}},
#ifdef RDEIC_WITH_CUDA
      {"cuda",
       "CUDAExecutionProvider",
       "Cuda",
       {{"auto", {"fp16", "fp32"}}, {"fp32", {"fp32"}}, {"fp16", {"fp16"}}, {"int8", {}}}},
      {"tensorrt-rtx",
       "NvTensorRTRTXExecutionProvider",
       "Cuda",
       {{"auto", {"fp16", "fp32"}}, {"fp32", {"fp32"}}, {"fp16", {"fp16"}}, {"int8", {"int8"}}}},
#endif
  };
  const auto* found = std::ranges::find_if(kProviders, [&](const Provider& p) { return p.name == name; });
  return found == std::end(kProviders) ? nullptr : found;
}

bool is_no_memory(std::string_view message) {
  return message.find("Failed to allocate memory") != message.npos || message.find("out of memory") != message.npos ||
         message.find("bad_alloc") != message.npos;
}

/// Throws what an exception of ONNX Runtime means while `what` was done.
[[noreturn]] void fail_with(const Ort::Exception& error, const std::string& what) {
  const std::string message = printable(error.what(), 300);
  if (is_no_memory(error.what())) {
    fail(Result::kOutOfMemory, "%s: ONNX Runtime found no memory (%s). Use smaller tiles (tile_px)", what.c_str(),
         message.c_str());
  }
  fail(Result::kBackend, "ONNX Runtime %s, %s: %s", OrtGetApiBase()->GetVersionString(), what.c_str(), message.c_str());
}

const char* name_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    default:
      return "another type";
  }
}

/// Name of an input or output -> its type and rank, as text to compare and to show.
using Tensors = std::map<std::string, std::string>;

std::string tensor_text(const std::string& dtype, std::size_t rank) {
  return text("%s of rank %zu", dtype.c_str(), rank);
}

Tensors promised(const std::vector<TensorSpec>& specs) {
  Tensors tensors;
  for (const TensorSpec& spec : specs) tensors[spec.name] = tensor_text(spec.dtype, spec.shape.size());
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
      described = tensor_text(name_of(tensor.GetElementType()), tensor.GetDimensionsCount());
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

std::string shape_text(const Shape& shape) {
  std::string out = "[";
  for (const std::int64_t side : shape) {
    if (out.size() > 1) out += ", ";
    out += side == kDynamic ? "n" : std::to_string(side);
  }
  return out + "]";
}

Ort::SessionOptions session_options(const Provider& provider, unsigned threads) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);
  options.SetIntraOpNumThreads(static_cast<int>(threads));
  // A pattern would be kept for every picture size ever seen.
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

}  // namespace

struct Value::State {
  Ort::Value value{nullptr};
  Shape shape;
};

Value::Value(std::unique_ptr<State> state) : state_(std::move(state)) {}
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::~Value() = default;

Value Value::of(const Tensor<float>& tensor) {
  auto state = std::make_unique<State>();
  state->shape = tensor.shape();
  // ONNX Runtime does not write to its inputs, but has one type for them and for outputs.
  state->value = Ort::Value::CreateTensor<float>(Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault),
                                                 const_cast<float*>(tensor.data()), tensor.size(), state->shape.data(),
                                                 state->shape.size());
  return Value(std::move(state));
}

const Shape& Value::shape() const { return state_->shape; }

template <typename T>
Tensor<T> Value::tensor(const Shape& shape, const char* what) const {
  const ONNXTensorElementDataType type = state_->value.GetTensorTypeAndShapeInfo().GetElementType();
  if (type != Ort::TypeToTensorType<T>::type) {
    fail(Result::kBundleCorrupt, "%s is %s, should be %s", what, name_of(type),
         name_of(Ort::TypeToTensorType<T>::type));
  }
  bool fits = shape.size() == state_->shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] == kDynamic || shape[i] == state_->shape[i];
  if (!fits) {
    fail(Result::kBundleCorrupt, "%s has the shape %s, should have %s", what, shape_text(state_->shape).c_str(),
         shape_text(shape).c_str());
  }
  Tensor<T> copy(state_->shape);
  std::copy_n(state_->value.GetTensorData<T>(), copy.size(), copy.data());
  return copy;
}
template Tensor<float> Value::tensor<float>(const Shape&, const char*) const;
template Tensor<std::uint8_t> Value::tensor<std::uint8_t>(const Shape&, const char*) const;

struct Graph::State {
  const GraphSpec& spec;
  std::vector<MappedWeight> weights;  // which the session reads where they are mapped
  Ort::MemoryInfo device;
  mutable Ort::Session session;  // Run is safe to call from many threads, but is not const
};

Graph::Graph(std::unique_ptr<State> state) : state_(std::move(state)) {}
Graph::~Graph() = default;

const GraphSpec& Graph::spec() const { return state_->spec; }

std::vector<Value> Graph::run(std::span<const Binding> inputs, Place place) const {
  const GraphSpec& spec = state_->spec;
  try {
    const auto host = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::IoBinding binding(state_->session);
    for (const Binding& input : inputs) binding.BindInput(input.name.c_str(), input.value->state().value);
    for (const TensorSpec& output : spec.outputs) {
      binding.BindOutput(output.name.c_str(), place == Place::kHost ? host : state_->device);
    }
    state_->session.Run(Ort::RunOptions{nullptr}, binding);
    std::vector<Value> outputs;
    for (Ort::Value& value : binding.GetOutputValues()) {
      auto output = std::make_unique<Value::State>();
      output->shape = value.GetTensorTypeAndShapeInfo().GetShape();
      output->value = std::move(value);
      outputs.emplace_back(std::move(output));
    }
    return outputs;
  } catch (const Ort::Exception& error) {
    fail_with(error, "graph '" + printable(spec.id) + "'");
  }
}

std::map<std::string, Value> by_name(const Graph& graph, std::vector<Value> outputs) {
  std::map<std::string, Value> named;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    named.emplace(graph.spec().outputs[i].name, std::move(outputs[i]));
  }
  return named;
}

struct Backend::State {
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "rdeic"};
  const Provider& provider;
};

Backend::Backend(std::string name, unsigned threads) : name_(std::move(name)), threads_(threads) {
  const Provider* provider = find_provider(name_);
  if (provider == nullptr) {
    const bool known = name_ == "cuda" || name_ == "tensorrt-rtx";
    fail(known ? Result::kBackendUnavailable : Result::kInvalidArgument, "backend '%s' %s", printable(name_).c_str(),
         known ? "is not part of this build of the library (RDEIC_WITH_CUDA)"
               : "is not one of: cpu, cuda, tensorrt-rtx");
  }
  const char* version = OrtGetApiBase()->GetVersionString();
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    fail(Result::kBackendUnavailable, "ONNX Runtime %s is older than the headers this library was built with (API %d)",
         version, ORT_API_VERSION);
  }
  try {
    state_ = std::unique_ptr<State>(new State{.provider = *provider});
    if (*provider->provider == '\0') return;
    const std::vector<std::string> available = Ort::GetAvailableProviders();
    if (std::ranges::find(available, provider->provider) == available.end()) {
      fail(Result::kBackendUnavailable, "%s: ONNX Runtime %s was built without %s; use its GPU package, or backend cpu",
           name_.c_str(), version, provider->provider);
    }
    session_options(*provider, threads_);  // loads the provider's library
  } catch (const Ort::Exception& error) {
    fail(Result::kBackendUnavailable, "%s: ONNX Runtime %s cannot start it: %s", name_.c_str(), version,
         printable(error.what(), 300).c_str());
  }
}

Backend::~Backend() = default;

const GraphSpec& Backend::choose_form(const Bundle& bundle, const GraphSpec& graph,
                                      const std::string& precision) const {
  const auto& forms = state_->provider.forms;
  const auto wanted = forms.find(precision);
  if (wanted == forms.end()) {
    fail(Result::kInvalidArgument, "precision '%s' is not one of: auto, fp32, fp16, int8",
         printable(precision).c_str());
  }
  for (const std::string_view form : wanted->second) {
    if (form == graph.precision) return graph;
    const auto variant = graph.variants.find(std::string(form));
    if (variant != graph.variants.end()) return bundle.graphs.at(variant->second);
  }
  fail(Result::kBackendUnavailable, "%s: bundle '%s' does not have its graph '%s' in a form to run with precision %s",
       name_.c_str(), printable(bundle.name).c_str(), printable(graph.id).c_str(), precision.c_str());
}

std::unique_ptr<Graph> Backend::load(const GraphSpec& spec) const {
  GraphFile file = read_graph(spec);
  try {
    Ort::SessionOptions options = session_options(state_->provider, threads_);
    add_weights(options, file.weights);
    auto graph = std::unique_ptr<Graph::State>(
        new Graph::State{spec, std::move(file.weights),
                         Ort::MemoryInfo(state_->provider.memory, OrtDeviceAllocator, 0, OrtMemTypeDefault),
                         Ort::Session(state_->env, file.onnx.data(), file.onnx.size(), options)});
    check_io(spec, graph->session);
    return std::make_unique<Graph>(std::move(graph));
  } catch (const Ort::Exception& error) {
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

}  // namespace rdeic::backends
