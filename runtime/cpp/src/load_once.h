#pragma once

// Values made when they are first needed, once.

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
  using Future = std::shared_future<Pointer>;
  using Make = std::function<Pointer()>;

  /// Begins to make a value in a thread of its own, unless there is one, once another one is made; `get` waits for it.
  Future begin(const std::string& key, Make make, Future after = {}) {
    const auto make_after = [after = std::move(after), make = std::move(make)] {
      if (after.valid()) after.wait();
      return make();
    };
    return entry(key, make_after, std::launch::async);
  }

  /// Returns the value of a key, made by `make` unless there is one. Throws what that throws.
  Pointer get(const std::string& key, Make make) {
    const Future value = entry(key, std::move(make), std::launch::deferred);
    try {
      return value.get();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      values_.erase(key);
      throw;
    }
  }

 private:
  Future entry(const std::string& key, Make make, std::launch policy) {
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
  std::map<std::string, Future> values_;
};

}  // namespace rdeic
