#pragma once

// ONNX Runtime, which runs every graph: on the CPU, or on a GPU through the provider of that name. ort.cc is the only
// file that includes its headers.
//
// A value belongs to whoever holds it, and nothing changes one once it is made. Graphs may be run by several threads at
// once.

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bundle.h"
#include "tensor.h"

namespace rdeic::backends {

/// What goes into a graph or comes out: on the host, or where the backend computes.
class Value {
 public:
  struct State;

  explicit Value(std::unique_ptr<State> state);
  Value(Value&&) noexcept;
  Value& operator=(Value&&) noexcept;
  ~Value();

  /// Returns a value that is a view of `tensor`, which must outlive it.
  static Value of(const Tensor<float>& tensor);

  const Shape& shape() const;
  /// Returns a copy of a value on the host, of float32 or uint8. `shape`: what it must have, kDynamic for any side;
  /// `what` names it in the Error(kBundleCorrupt) if it has another shape or type, as graphs may make what they like.
  template <typename T>
  Tensor<T> tensor(const Shape& shape, const char* what) const;
  const State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

/// A value under the name of a graph's input.
struct Binding {
  std::string name;
  const Value* value;
};

/// Where a graph's outputs are to lie. On the CPU both are the same.
enum class Place { kHost, kDevice };

/// A loaded graph.
class Graph {
 public:
  struct State;

  explicit Graph(std::unique_ptr<State> state);
  ~Graph();

  const GraphSpec& spec() const;

  /// Returns the outputs in the order of the spec, for inputs bound by name. Throws Error: kBackend,
  /// kOutOfMemory.
  std::vector<Value> run(std::span<const Binding> inputs, Place place) const;

 private:
  std::unique_ptr<State> state_;
};

/// Returns the outputs of a run of this graph by name.
std::map<std::string, Value> by_name(const Graph& graph, std::vector<Value> outputs);

/// A place to run graphs.
class Backend {
 public:
  /// `name`: cpu, cuda or tensorrt-rtx; `threads`: of the CPU for one run, 0 for one per physical core. Throws
  /// Error(kInvalidArgument) for another name, kBackendUnavailable with the reason where this one cannot run here.
  Backend(std::string name, unsigned threads);
  ~Backend();

  const std::string& name() const { return name_; }

  /// Returns the form of a graph that runs in this precision (docs/bundle.md, "variants"); "auto" takes what the
  /// backend prefers. Throws Error: kInvalidArgument for no such precision, kBackendUnavailable if the bundle has none
  /// of the forms.
  const GraphSpec& choose_form(const Bundle& bundle, const GraphSpec& graph, const std::string& precision) const;

  /// Returns the graph, ready to run; `spec` must outlive it. Throws Error: kBundleCorrupt if the file is not this
  /// graph, kBackend if it cannot be run.
  std::unique_ptr<Graph> load(const GraphSpec& spec) const;

 private:
  struct State;

  std::string name_;
  unsigned threads_;
  std::unique_ptr<State> state_;
};

}  // namespace rdeic::backends
