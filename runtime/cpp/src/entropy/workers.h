#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace rdeic::entropy {

/// Threads that share the work of one integer layer. They sleep between layers, and end with this object.
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
  struct Job {
    Job(std::size_t tasks, const std::function<void(std::size_t)>& function) : n(tasks), task(function) {}

    const std::size_t n;
    const std::function<void(std::size_t)>& task;  // not touched once all n are done
    std::atomic<std::size_t> next = 0, done = 0;
    std::mutex mutex;
    std::condition_variable all_done;
    std::size_t failed = n;  // the first that did
    std::exception_ptr failure;
  };

  static void work_on(Job& job);
  void serve();

  std::mutex callers_;  // held by the caller that is served
  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace rdeic::entropy
