// Decodes files given in hexadecimal, a line each, and prints what came of each: for parity.py, which compares that
// with what Python makes of the same bytes.
//
//   parity BUNDLE latents|pixels [TILE_PX]      RESULT [SHA-256 of y_hat [pixels in hexadecimal]]
//
// A result is a number of rdeic.h; y_hat and pixels are there if it is 0.

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "codec.h"
#include "sha256.h"
#include "status.h"

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes bytes_from_hex(const std::string& digits) {
  Bytes bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes.push_back(static_cast<std::uint8_t>(std::stoi(digits.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string digest_of(const rdeic::Tensor<float>& y_hat) {
  rdeic::Sha256 digest;
  digest.update({reinterpret_cast<const std::uint8_t*>(y_hat.data()), y_hat.size() * sizeof(float)});
  return rdeic::hex(digest.finish());
}

std::string outcome(rdeic::Codec& codec, const Bytes& data, bool pixels) {
  try {
    std::string line = "0 " + digest_of(codec.read_latents(data).y_hat);
    if (!pixels) return line;
    Bytes picture;
    codec.decode(data,
                 [&](rdeic::Size size) {
                   picture.resize(std::size_t{3} * size.width * size.height);
                   return rdeic::PixelRows{picture.data(), std::size_t{3} * size.width};
                 },
                 {});
    return line + " " + rdeic::hex(picture);
  } catch (const rdeic::Error& error) {
    return std::to_string(static_cast<int>(error.result()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return EXIT_FAILURE;
  rdeic::CodecOptions options;
  if (argc > 3) options.tile_px = static_cast<std::uint32_t>(std::atoi(argv[3]));
  rdeic::Codec codec(std::make_shared<const rdeic::Bundle>(rdeic::read_bundle(argv[1])), options);
  const bool pixels = std::string(argv[2]) == "pixels";
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << outcome(codec, bytes_from_hex(line), pixels) << std::endl;
  }
  return EXIT_SUCCESS;
}
