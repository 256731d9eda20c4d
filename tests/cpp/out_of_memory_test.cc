// Every allocation of a call fails once: each time it ends in OUT_OF_MEMORY, with nothing left behind, and works again.
// Graphs are left out, as they are ONNX Runtime's.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "rdc_builder.h"
#include "rdeic/rdeic.h"

namespace {

constexpr long kNever = -1;
std::atomic<long> allocations_left = kNever;
std::atomic<long> allocations = 0;

void* allocate(std::size_t n_bytes) {
  ++allocations;
  if (allocations_left != kNever && allocations_left-- == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(n_bytes ? n_bytes : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t n_bytes) { return allocate(n_bytes); }
void* operator new[](std::size_t n_bytes) { return allocate(n_bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

const std::string kGolden = RDEIC_SOURCE_DIR "/tests/golden/v1/";

/// Calls `body`, which returns a result, with each of its allocations failing in turn; at most `most` of them.
template <typename Body>
void fail_every_allocation(long most, Body&& body) {
  rdeic_error error{};
  ASSERT_EQ(body(&error), RDEIC_RESULT_OK) << error.message;  // which makes the tables that there are once
  allocations = 0;
  ASSERT_EQ(body(&error), RDEIC_RESULT_OK) << error.message;
  const long count = allocations;
  ASSERT_GT(count, 0);
  const long stride = std::max(1L, count / most);
  for (long n = 0; n < count; n += stride) {
    rdeic_error_clear(&error);
    allocations_left = n;
    const rdeic_result result = body(&error);
    allocations_left = kNever;
    ASSERT_EQ(result, RDEIC_RESULT_OUT_OF_MEMORY) << "allocation " << n << ": " << error.message;
    ASSERT_STREQ(error.message, "not enough memory");
  }
  EXPECT_EQ(body(&error), RDEIC_RESULT_OK);
}

TEST(OutOfMemory, BundleOpenSaysSo) {
  const std::string folder = kGolden + "bundle";
  fail_every_allocation(300, [&](rdeic_error* error) {
    rdeic_bundle* bundle = nullptr;
    const rdeic_result result = rdeic_bundle_open(folder.c_str(), RDEIC_BUNDLE_NO_VERIFY, &bundle, error);
    EXPECT_EQ(bundle != nullptr, result == RDEIC_RESULT_OK);
    rdeic_bundle_destroy(bundle);
    return result;
  });
}

TEST(OutOfMemory, ReadInfoSaysSo) {
  using namespace rdeic::testing;
  const Bytes data = with_metadata(record(1, Bytes(100'000, 7))).file();
  fail_every_allocation(100, [&](rdeic_error* error) {
    rdeic_info info;
    return rdeic_read_info(data.data(), data.size(), nullptr, &info, error);
  });
}

}  // namespace
