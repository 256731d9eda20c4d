#pragma once

// What JavaScript does for librdeic in WebAssembly: functions of the object that the module was made with
// (web/rdeic-web/ src/exact.js). None of them throws.

#include <emscripten.h>

#include <cstddef>
#include <cstdint>

extern "C" {

/// Begins a SHA-256; `finish` writes 32 bytes and ends it, `abandon` ends it only.
int rdeic_js_sha256_begin();
void rdeic_js_sha256_update(int hash, const std::uint8_t* data, std::size_t n_bytes);
void rdeic_js_sha256_finish(int hash, std::uint8_t* digest);
void rdeic_js_sha256_abandon(int hash);

/// Decompresses a zlib stream, or a raw deflate stream, to at most `limit_bytes`, a number of 2^53 at most, and keeps
/// it. Returns a number of `Inflated::End`. The three below describe the result, until the next call: how long it is,
/// how much of the input follows the stream, and what zlib says of a damaged one, at most `room` bytes with a NUL.
int rdeic_js_inflate(const std::uint8_t* input, std::size_t n_bytes, double limit_bytes, bool is_raw);
std::size_t rdeic_js_inflated_bytes();
std::size_t rdeic_js_inflated_left();
void rdeic_js_inflated_problem(char* target, std::size_t room);
/// Copies the result, and forgets it.
void rdeic_js_inflated_take(std::uint8_t* target);

/// Returns whether decoding is to go on.
bool rdeic_js_progress();

}  // extern "C"
