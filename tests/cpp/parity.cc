// Decodes files given in hexadecimal, a line each, and prints what came of each: for parity.py, which compares that
// with what Python makes of the same bytes.
//
//   parity BUNDLE latents|pixels|preview [TILE_PX]     RESULT [SHA-256 of the latents [pixels in hexadecimal]]
//   parity bundles    the same as for pixels, for lines of a bundle's folder in hexadecimal, a blank, and a file
//   parity graphs     RESULT [weights in other files], for lines of an ONNX file
//   parity messages BUNDLE     RESULT MESSAGE in hexadecimal, for lines of what is read and its bytes: tests/web
//
// A result is a number of rdeic.h; digest, pixels and weights are there if it is 0.

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bundle_tables.h"
#include "codec.h"
#include "families/family.h"
#include "graph_weights.h"
#include "onnx_walk.h"
#include "sha256.h"
#include "status.h"

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes bytes_from_hex(const std::string& digits) {
  Bytes bytes(digits.size() / 2);
  const char* at = digits.data();
  for (std::uint8_t& byte : bytes) {
    std::from_chars(at, at + 2, byte, 16);
    at += 2;
  }
  return bytes;
}

/// Returns the digest of all tensors in the order of their names.
std::string digest_of(const rdeic::Values& tensors) {
  rdeic::Sha256 digest;
  for (const auto& [name, tensor] : tensors) {
    digest.update({reinterpret_cast<const std::uint8_t*>(tensor->data()),
                   rdeic::count_of(tensor->shape()) * rdeic::dtype_bytes(tensor->dtype())});
  }
  return rdeic::hex(digest.finish());
}

std::string outcome(rdeic::Codec& codec, const Bytes& data, bool pixels, bool preview = false) {
  try {
    std::string line = "0 " + digest_of(codec.read_latents(data).tensors);
    if (!pixels) return line;
    Bytes image;
    codec.decode(data,
                 [&](rdeic::Size size) {
                   image.resize(std::size_t{3} * size.width * size.height);
                   return rdeic::PixelRows{image.data(), std::size_t{3} * size.width};
                 },
                 {.preview = preview});
    return line + " " + rdeic::hex(image);
  } catch (const rdeic::Error& error) {
    return std::to_string(static_cast<int>(error.result()));
  }
}

/// Decodes with each of the bundles whose folders are given in hexadecimal, before the file, and a blank.
void decode_with_bundles(const rdeic::CodecOptions& options) {
  for (std::string line; std::getline(std::cin, line);) {
    const std::size_t blank = line.find(' ');
    const Bytes folder = bytes_from_hex(line.substr(0, blank));
    std::string result;
    try {
      rdeic::Codec codec(
          std::make_shared<const rdeic::Bundle>(rdeic::read_bundle(std::string(folder.begin(), folder.end()))),
          options);
      result = outcome(codec, bytes_from_hex(line.substr(blank + 1)), true);
    } catch (const rdeic::Error& error) {
      result = std::to_string(static_cast<int>(error.result()));
    }
    std::cout << result << std::endl;
  }
}

/// Walks ONNX files, and prints what weights they have in other files.
void walk_graphs() {
  for (std::string line; std::getline(std::cin, line);) {
    std::string result = "0 ";
    try {
      for (const rdeic::ExternalWeight& weight : rdeic::external_weights(bytes_from_hex(line), "graph")) {
        result += weight.name + '\n' + weight.location + '\n' + std::to_string(weight.offset) + '\n' +
                  std::to_string(weight.size_bytes) + '\n';
        for (const std::int64_t side : weight.shape) result += std::to_string(side) + ',';
        result += '\n';
      }
      const Bytes text(result.begin() + 2, result.end());
      result = "0 " + rdeic::hex(text);
    } catch (const rdeic::Error& error) {
      result = std::to_string(static_cast<int>(error.result()));
    }
    std::cout << result << std::endl;
  }
}

/// Reads bytes as one of the files of a bundle's first rate, or as a file to decode, as exact.js does.
void read_as(const std::string& kind, const Bytes& data, rdeic::Codec& codec) {
  const rdeic::Bundle& bundle = codec.bundle();
  const rdeic::Rate& rate = bundle.rates[0];
  if (kind == "file" || kind == "cut") {
    codec.read_latents(data, kind == "cut");
  } else if (kind == "manifest") {
    const std::string text(data.begin(), data.end());
    rdeic::parse_bundle(text, bundle.folder, true, rdeic::families::table());
  } else if (kind == "entropy") {
    rdeic::model_of(bundle, rate, rdeic::Arrays::read(data, rate.entropy.path.string(), "entropy model"));
  } else if (kind == "steps") {
    const std::string path = rate.step_table(*rate.schedule).path.string();
    rdeic::step_rows_of(bundle, rate, bundle.schedules.at(*rate.schedule), rdeic::Arrays::read(data, path));
  } else if (kind == "levels") {
    rdeic::level_rows_of(bundle, rate, rdeic::Arrays::read(data, bundle.levels->file.path.string()));
  } else if (kind == "graph") {
    rdeic::locate_weights(bundle.reference(rate.graphs.at("vae_decoder")), data);
  }
}

/// Prints what librdeic says of each line, which has a kind, a blank and bytes.
void print_messages(rdeic::Codec& codec) {
  for (std::string line; std::getline(std::cin, line);) {
    const std::size_t blank = line.find(' ');
    std::string result = "0";
    try {
      read_as(line.substr(0, blank), bytes_from_hex(line.substr(blank + 1)), codec);
    } catch (const rdeic::Error& error) {
      const std::string message = error.what();
      result =
          std::to_string(static_cast<int>(error.result())) + " " + rdeic::hex(Bytes(message.begin(), message.end()));
    }
    std::cout << result << std::endl;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  rdeic::CodecOptions options;
  if (mode == "bundles") {
    options.threads = 1;
    decode_with_bundles(options);
    return EXIT_SUCCESS;
  }
  if (mode == "graphs") {
    walk_graphs();
    return EXIT_SUCCESS;
  }
  if (argc < 3) return EXIT_FAILURE;
  if (mode == "messages") {
    rdeic::Codec codec(std::make_shared<const rdeic::Bundle>(rdeic::read_bundle(argv[2])), options);
    print_messages(codec);
    return EXIT_SUCCESS;
  }
  if (argc > 3) options.tile_px = static_cast<std::uint32_t>(std::atoi(argv[3]));
  rdeic::Codec codec(std::make_shared<const rdeic::Bundle>(rdeic::read_bundle(argv[1])), options);
  const bool preview = std::string(argv[2]) == "preview", pixels = preview || std::string(argv[2]) == "pixels";
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << outcome(codec, bytes_from_hex(line), pixels, preview) << std::endl;
  }
  return EXIT_SUCCESS;
}
