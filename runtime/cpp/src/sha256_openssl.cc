#include <openssl/evp.h>

#include <new>

#include "sha256.h"
#include "status.h"

namespace rdeic {

struct Sha256::State {
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, Free> context{EVP_MD_CTX_new()};
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  if (!state_->context) throw std::bad_alloc();
  if (EVP_DigestInit_ex(state_->context.get(), EVP_sha256(), nullptr) != 1)
    fail(Result::kInternal, "libcrypto has no SHA-256");
}

Sha256::~Sha256() = default;

void Sha256::update(std::span<const std::uint8_t> data) {
  if (EVP_DigestUpdate(state_->context.get(), data.data(), data.size()) != 1)
    fail(Result::kInternal, "EVP_DigestUpdate failed");
}

Sha256Digest Sha256::finish() {
  Sha256Digest digest;
  if (EVP_DigestFinal_ex(state_->context.get(), digest.data(), nullptr) != 1)
    fail(Result::kInternal, "EVP_DigestFinal_ex failed");
  return digest;
}

}  // namespace rdeic
