#pragma once

// What a backend is: it loads graphs and runs them on values bound to the names of their inputs.
//
// A value is used only with the backend that made it, unless it is on the host: those any backend takes. Every method
// may be called by several threads at once, on the same objects.

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "bundle.h"
#include "value.h"

namespace rdeic::backends {

/// Where a graph's outputs are to lie. On the CPU both are the same.
enum class Location { kHost, kDevice };

/// A loaded graph.
class Graph {
 public:
  virtual ~Graph() = default;

  virtual const GraphSpec& spec() const = 0;

  /// Returns the outputs by name for inputs bound by name; all of them must be given. Throws Error: kBackend,
  /// kOutOfMemory.
  virtual Values run(const Values& inputs, Location outputs) const = 0;
};

/// A place to run graphs.
class Backend {
 public:
  virtual ~Backend() = default;

  /// Returns the name that callers know it by.
  virtual const std::string& name() const = 0;

  /// Returns the forms of a graph that it can run.
  virtual std::span<const std::string_view> forms() const = 0;

  /// Returns the graph, ready to run; `spec` must outlive it. Throws Error: kBundleCorrupt if the file is not this
  /// graph, kBackend if it cannot be run.
  virtual std::unique_ptr<const Graph> load(const GraphSpec& spec) const = 0;
};

/// Returns the outputs of a graph's run, of the types and shapes that its spec promises for these inputs;
/// Error(kBundleCorrupt) if they are others, as a graph may make what it likes.
Values run_checked(const Graph& graph, const Values& inputs, Location outputs);

/// Returns the form of a graph that the backend runs in this precision; "auto" takes what it prefers. Throws Error:
/// kInvalidArgument for no such precision, kBackendUnavailable if the bundle has the graph in none of the forms.
const GraphSpec& choose_form(const Backend& backend, const Bundle& bundle, const std::string& graph_id,
                             const std::string& precision);

}  // namespace rdeic::backends
