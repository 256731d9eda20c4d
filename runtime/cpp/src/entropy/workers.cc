#include "entropy/workers.h"

#include <system_error>

namespace rdeic::entropy {

Workers::Workers(unsigned threads) {
  try {
    for (unsigned i = 1; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error&) {
    // The system gives no more threads: those that there are do the work, if only the caller's.
  }
}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(std::size_t n, const std::function<void(std::size_t)>& task) {
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

void Workers::work_on(Job& job) {
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

void Workers::serve() {
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
