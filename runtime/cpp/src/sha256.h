#pragma once

// SHA-256. Natively sha256_openssl.cc, with libcrypto; in WebAssembly wasm/sha256_js.cc.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace rdeic {

using Sha256Digest = std::array<std::uint8_t, 32>;

/// SHA-256 of bytes that come in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::uint8_t> data);
  /// Returns the digest of all data; the object is of no use afterwards.
  Sha256Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Returns bytes as lower-case hexadecimal digits.
std::string hex(std::span<const std::uint8_t> bytes);

}  // namespace rdeic
