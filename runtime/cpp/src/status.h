#pragma once

// Results and the exception that carries one. Numbers are those of rdeic.h (api.cc asserts it); names are those of
// rdeic_rt.errors. Tens are the exit code of the command line.

#include <stdexcept>
#include <string>

namespace rdeic {

enum class Result : int {
  kOk = 0,
  kInternal = 10,
  kInvalidArgument = 20,
  kCancelled = 21,
  kIo = 30,
  kNotRdc = 40,
  kTruncated = 41,
  kUnsupportedVersion = 42,
  kLimitExceeded = 43,
  kChecksum = 44,
  kBitstream = 45,
  kBundle = 50,
  kBundleNotFound = 51,
  kBundleCorrupt = 52,
  kBundleMismatch = 53,
  kBackend = 60,
  kBackendUnavailable = 61,
  kOutOfMemory = 62,
};

/// What bad input, a bad bundle, a missing device or a caller's mistake ends in; `what()` is one line.
class Error : public std::runtime_error {
 public:
  Error(Result result, const std::string& message) : std::runtime_error(message), result_(result) {}

  Result result() const { return result_; }

 private:
  Result result_;
};

/// Throws an Error whose message is made as by printf. A message says what was read, where, what was expected, what is
/// there and what to do about it.
#if defined(__GNUC__)
[[gnu::format(printf, 2, 3)]]
#endif
[[noreturn]] void
fail(Result result, const char* format, ...);

/// Returns text made as by printf.
#if defined(__GNUC__)
[[gnu::format(printf, 1, 2)]]
#endif
std::string
text(const char* format, ...);

/// Returns text from a file in one printable line: control characters and what is beyond ASCII as \xNN, cut after
/// `most` characters. Messages quote what others wrote only through this.
std::string printable(const std::string& raw, std::size_t most = 120);

}  // namespace rdeic
