#include "imports.h"
#include "sha256.h"

namespace rdeic {

struct Sha256::State {
  State() : hash(rdeic_js_sha256_begin()) {}
  ~State() { rdeic_js_sha256_abandon(hash); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  int hash;
};

Sha256::Sha256() : state_(std::make_unique<State>()) {}
Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::uint8_t> data) {
  rdeic_js_sha256_update(state_->hash, data.data(), data.size());
}

Sha256Digest Sha256::finish() {
  Sha256Digest digest;
  rdeic_js_sha256_finish(state_->hash, digest.data());
  return digest;
}

}  // namespace rdeic
