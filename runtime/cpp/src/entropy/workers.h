#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace rdeic::entropy {

/// Threads that share the work of one integer layer. They sleep between layers, and end with this object. In
/// WebAssembly there are none, and the caller works alone (wasm/workers_single.cc).
class Workers {
 public:
  /// `threads`: at work on one layer, the caller's included; 0 and 1 start none.
  explicit Workers(unsigned threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Calls task(0) ... task(n - 1), in any order and side by side; returns when all are done, and throws what the
  /// first of those that failed threw. May be called from several threads: while one is served, others work alone.
  void run(std::size_t n, const std::function<void(std::size_t)>& task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rdeic::entropy
