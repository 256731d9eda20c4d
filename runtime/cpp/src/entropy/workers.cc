#include "entropy/workers.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace rdeic::entropy {

struct Workers::State {
  explicit State(unsigned threads);
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

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

Workers::Workers(unsigned threads) : state_(std::make_unique<State>(threads)) {}
Workers::~Workers() = default;

void Workers::run(std::size_t n, const std::function<void(std::size_t)>& task) { state_->run(n, task); }

Workers::State::State(unsigned threads) {
  try {
    for (unsigned i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error&) {
    // The system gives no more threads: those that there are do the work, if only the caller's.
  }
}

Workers::State::~State() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::State::run(std::size_t n, const std::function<void(std::size_t)>& task) {
  const std::unique_lock served(callers_, std::try_to_lock);
  if (n < 2 || threads_.empty() || !served.owns_lock()) {
    for (std::size_t i = 0; i < n; ++i) task(i);
    return;
  }
  const auto job = std::make_shared<Job>(n, task);
  {
    const std::lock_guard lock(mutex_);
    job_ = job;
  }
  wake_.notify_all();
  work_on(*job);
  {
    std::unique_lock lock(job->mutex);
    job->all_done.wait(lock, [&] { return job->done == job->n; });
  }
  {
    const std::lock_guard lock(mutex_);
    job_ = nullptr;
  }
  if (job->failure) std::rethrow_exception(job->failure);
}

void Workers::State::work_on(Job& job) {
  for (std::size_t i = job.next++; i < job.n; i = job.next++) {
    std::exception_ptr failure;
    try {
      job.task(i);
    } catch (...) {
      failure = std::current_exception();
    }
    const std::lock_guard lock(job.mutex);
    if (failure && i < job.failed) {
      job.failed = i;
      job.failure = failure;
    }
    if (++job.done == job.n) job.all_done.notify_all();
  }
}

void Workers::State::serve() {
  std::shared_ptr<Job> last;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return ending_ || (job_ && job_ != last); });
      if (ending_) return;
      last = job_;
    }
    work_on(*last);
  }
}

}  // namespace rdeic::entropy
