#pragma once

// Graphs and tables of a bundle, each loaded when it is first needed, once.

#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>

namespace rdeic {

/// Values made on first use, each once, whichever thread comes first; a failure is not kept.
template <typename Value>
class LoadOnce {
 public:
  using Pointer = std::shared_ptr<const Value>;
  using Make = std::function<Pointer()>;

  /// Begins to make a value in a thread of its own, unless there is one; `get` waits for it.
  void begin(const std::string& key, Make make) { entry(key, std::move(make), std::launch::async); }

  /// Returns the value of a key, made by `make` unless there is one. Throws what that throws.
  Pointer get(const std::string& key, Make make) {
    const std::shared_future<Pointer> value = entry(key, std::move(make), std::launch::deferred);
    try {
      return value.get();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      values_.erase(key);
      throw;
    }
  }

 private:
  std::shared_future<Pointer> entry(const std::string& key, Make make, std::launch policy) {
    const std::lock_guard lock(mutex_);
    const auto found = values_.find(key);
    if (found != values_.end()) return found->second;
    try {
      return values_.emplace(key, std::async(policy, make).share()).first->second;
    } catch (const std::system_error&) {  // no thread is to be had: `get` makes the value
      return values_.emplace(key, std::async(std::launch::deferred, make).share()).first->second;
    }
  }

  std::mutex mutex_;
  std::map<std::string, std::shared_future<Pointer>> values_;
};

}  // namespace rdeic
