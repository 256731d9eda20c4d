// The command `rdeic`: decodes .rdc files, and tells what is in a file or a bundle. Results go to standard output, all
// else to standard error. Exit codes are those of rdeic-rt: the tens of a result, 2 for a wrong command line.

#include <getopt.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <rdeic/rdeic.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "output.h"
#include "png_writer.h"

namespace {

using Json = nlohmann::ordered_json;
using Bytes = std::vector<std::uint8_t>;
using rdeic_tool::FileError;
using rdeic_tool::Output;

constexpr int kExitUsage = 2;
constexpr const char* kUsage = R"(usage: rdeic decode IN... [-o OUT] [options]
       rdeic info FILE|BUNDLE... [--json]
       rdeic --version

decode writes a .png (or .ppm, by the suffix of OUT) for each .rdc file; '-' is standard input or output.

input and output
  -o, --output OUT       output file, with one input (IN with the suffix .png)
      --overwrite        replace existing files; by default only the file given by -o is replaced
      --no-overwrite     do not replace even the file given by -o
      --allow-partial    decode the intact part of a truncated file
model
  -b, --bundle B         a folder or a name (for each file the installed bundle that it was encoded with)
      --no-verify        do not compare hashes of the bundle's files
image
      --sharpness S      0 and more: towards 0 smoother, above 1 sharper (1)
      --seed N           seed of the noise (the file's checksum)
      --steps N          number of denoising steps (the rate's own)
      --preview          skip denoising
device
      --backend NAME     cpu, cuda or tensorrt-rtx (cpu)
      --precision P      auto, fp32, fp16 or int8 (auto)
      --threads N        CPU threads (one per core)
      --tile N           process images larger than N x N in tiles (1024)
limits
      --max-pixels N     maximum pixels of an image (67108864)
      --max-memory N     maximum bytes for an image, without ONNX Runtime's working memory (4294967296)

exit code: 0 done; 1 a bug; 2 wrong command line; 3 a file cannot be read or written; 4 a bad file; 5 a bad bundle, or
a file of another bundle; 6 the backend cannot run, or memory ran out. After an error the other inputs are still processed.
)";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::vector<std::string> inputs;
  std::string output;
  std::optional<bool> overwrite;
  std::optional<std::string> bundle;
  std::uint32_t bundle_flags = 0;
  rdeic::DecoderOptions decoder;
  rdeic::DecodeOptions decode;
  bool json = false;
};

template <typename T>
T number(const char* name, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    throw UsageError("--" + std::string(name) + " takes a number, not '" + std::string(text) + "'");
  return value;
}

Options parse(int argc, char** argv) {
  enum Long {
    kAllowPartial = 256,
    kOverwrite,
    kNoOverwrite,
    kNoVerify,
    kSharpness,
    kSeed,
    kSteps,
    kPreview,
    kBackend,
    kPrecision,
    kThreads,
    kTile,
    kMaxPixels,
    kMaxMemory,
    kJson
  };
  static const option kOptions[] = {{"output", required_argument, nullptr, 'o'},
                                    {"bundle", required_argument, nullptr, 'b'},
                                    {"allow-partial", no_argument, nullptr, kAllowPartial},
                                    {"overwrite", no_argument, nullptr, kOverwrite},
                                    {"no-overwrite", no_argument, nullptr, kNoOverwrite},
                                    {"no-verify", no_argument, nullptr, kNoVerify},
                                    {"sharpness", required_argument, nullptr, kSharpness},
                                    {"seed", required_argument, nullptr, kSeed},
                                    {"steps", required_argument, nullptr, kSteps},
                                    {"preview", no_argument, nullptr, kPreview},
                                    {"backend", required_argument, nullptr, kBackend},
                                    {"precision", required_argument, nullptr, kPrecision},
                                    {"threads", required_argument, nullptr, kThreads},
                                    {"tile", required_argument, nullptr, kTile},
                                    {"max-pixels", required_argument, nullptr, kMaxPixels},
                                    {"max-memory", required_argument, nullptr, kMaxMemory},
                                    {"json", no_argument, nullptr, kJson},
                                    {nullptr, 0, nullptr, 0}};
  Options options;
  int index = 0;
  for (int c; (c = getopt_long(argc, argv, "o:b:", kOptions, &index)) != -1;) {
    const char* const name = c >= 256 ? kOptions[index].name : "";
    switch (c) {
      case 'o':
        options.output = optarg;
        break;
      case 'b':
        options.bundle = optarg;
        break;
      case kAllowPartial:
        options.decode.allow_partial = true;
        break;
      case kOverwrite:
      case kNoOverwrite:
        if (options.overwrite.value_or(c == kOverwrite) != (c == kOverwrite))
          throw UsageError("--overwrite and --no-overwrite exclude each other");
        options.overwrite = c == kOverwrite;
        break;
      case kNoVerify:
        options.bundle_flags |= RDEIC_BUNDLE_NO_VERIFY;
        break;
      case kSharpness:
        options.decode.sharpness = number<double>(name, optarg);
        break;
      case kSeed:
        options.decode.seed = number<std::uint64_t>(name, optarg);
        break;
      case kSteps:
        options.decode.steps = number<std::uint32_t>(name, optarg);
        break;
      case kPreview:
        options.decode.preview = true;
        break;
      case kBackend:
        options.decoder.backend = optarg;
        break;
      case kPrecision:
        options.decoder.precision = optarg;
        break;
      case kThreads:
        options.decoder.threads = number<std::uint32_t>(name, optarg);
        break;
      case kTile:
        options.decoder.tile_px = number<std::uint32_t>(name, optarg);
        break;
      case kMaxPixels:
        options.decoder.limits.max_pixels = number<std::uint64_t>(name, optarg);
        break;
      case kMaxMemory:
        options.decoder.limits.max_memory_bytes = number<std::uint64_t>(name, optarg);
        break;
      case kJson:
        options.json = true;
        break;
      default:
        throw UsageError("");  // getopt has said what is wrong
    }
  }
  options.inputs.assign(argv + optind, argv + argc);
  if (options.inputs.empty()) throw UsageError("no input");
  if (!options.output.empty() && options.inputs.size() > 1) throw UsageError("--output goes with one input");
  return options;
}

/// Returns the bytes of a file, no more than a byte over the limit, which the library then refuses.
Bytes read_file(const std::string& path, const rdeic::Limits& limits) {
  std::FILE* const file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (!file) throw FileError(path, errno);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> guard(file, std::fclose);
  Bytes data;
  std::vector<std::uint8_t> block(std::size_t{1} << 16);
  while (data.size() <= limits.max_file_bytes) {
    const std::size_t got = std::fread(block.data(), 1, block.size(), file);
    data.insert(data.end(), block.begin(), block.begin() + static_cast<std::ptrdiff_t>(got));
    if (got < block.size()) break;
  }
  if (std::ferror(file)) throw FileError(path == "-" ? "standard input" : path, errno);
  return data;
}

/// Suffixes of output files. A stream that is not a regular file may have any name, and gets a PNG.
constexpr std::string_view kPng = ".png", kPpm = ".ppm";

bool has_suffix(const std::string& path, std::string_view suffix) {
  return path.size() >= suffix.size() && std::equal(suffix.rbegin(), suffix.rend(), path.rbegin(), [](char a, char b) {
           return a == std::tolower(static_cast<unsigned char>(b));
         });
}

/// Returns what was wrong, or nothing.
std::string write_image(std::FILE* file, bool as_ppm, const rdeic::Image& image) {
  if (!as_ppm) return rdeic_tool::write_png(file, image.get());
  std::fprintf(file, "P6\n%" PRIu32 " %" PRIu32 "\n255\n", image.width(), image.height());
  std::fwrite(image.pixels().data(), 1, image.pixels().size(), file);
  return {};
}

Output output_of(const std::string& input, const Options& options) {
  if (!options.output.empty()) return {options.output, true, options.overwrite.value_or(true)};
  if (input == "-") return {"-", false, false};
  return {std::filesystem::path(input).replace_extension(kPng).string(), false, options.overwrite.value_or(false)};
}

/// Throws UsageError if not all outputs can be written, before any work starts.
void check_outputs(const Options& options) {
  std::map<std::string, std::string> inputs, made_by;
  for (const std::string& input : options.inputs) {
    if (input == "-" && options.inputs.size() > 1) throw UsageError("'-' (standard input) must be the only input");
    if (input == "-" && isatty(STDIN_FILENO)) throw UsageError("standard input is a terminal; redirect a file into it");
    if (input != "-") inputs[rdeic_tool::place_of(input)] = input;
  }
  for (const std::string& input : options.inputs) {
    const Output made = output_of(input, options);
    const std::string& output = made.path;
    if (output == "-") {
      if (isatty(STDOUT_FILENO)) throw UsageError("refusing to write an image to a terminal; redirect it, or give -o");
      continue;
    }
    if (!has_suffix(output, kPng) && !has_suffix(output, kPpm) && !rdeic_tool::is_stream(output))
      throw UsageError(output + ": images are written as one of .png, .ppm");
    const std::string place = rdeic_tool::place_of(output);
    if (inputs.contains(place))
      throw UsageError(output + " is an input and would be overwritten; give another name with -o");
    const auto [first, is_new] = made_by.emplace(place, input);
    if (!is_new)
      throw UsageError(std::string(first->second)
                           .append(" and ")
                           .append(input)
                           .append(" would both become ")
                           .append(output)
                           .append("; decode them separately"));
  }
}

/// The decoder of each file: that of --bundle, or of the installed bundle that the file was encoded with. A bundle is
/// opened once, when the first file needs it; --bundle immediately. If it cannot be opened, each of its files fails.
class Decoders {
 public:
  /// Throws rdeic::Error if --bundle cannot be opened.
  explicit Decoders(const Options& options) : options_(options) {
    if (options.bundle) given_.emplace(rdeic::Bundle(options.bundle, options.bundle_flags), options.decoder);
  }

  rdeic::Decoder& of(const Bytes& data) {
    if (given_) return *given_;
    const std::string folder = rdeic::Bundle::of_file(data, RDEIC_BUNDLE_NO_VERIFY, options_.decoder.limits).folder();
    const auto [at, is_new] = installed_.try_emplace(folder);
    auto& [decoder, error] = at->second;
    if (is_new) {
      try {
        decoder.emplace(rdeic::Bundle(folder, options_.bundle_flags), options_.decoder);
      } catch (const rdeic::Error& failure) {
        error = failure;
      }
    }
    if (error) throw *error;
    return *decoder;
  }

 private:
  const Options& options_;
  std::optional<rdeic::Decoder> given_;
  std::map<std::string, std::pair<std::optional<rdeic::Decoder>, std::optional<rdeic::Error>>> installed_;
};

void decode(Decoders& decoders, const std::string& input, const Options& options) {
  const Output output = output_of(input, options);
  rdeic_tool::check(output);
  const Bytes data = read_file(input, options.decoder.limits);
  const rdeic::Image image = decoders.of(data).decode(data, options.decode);
  if (image.get().missing_bytes > 0)
    std::fprintf(stderr,
                 "%s: cut short by %" PRIu64 " bytes and not checked; %" PRIu32 " of %" PRIu32 " slices are complete\n",
                 input.c_str(), image.get().missing_bytes, image.get().complete_slices, image.get().n_slices);
  rdeic_tool::save(output, [&](std::FILE* file) { return write_image(file, has_suffix(output.path, kPpm), image); });
}

std::string hex(const std::uint8_t (&id)[4]) {
  char text[9];
  std::snprintf(text, sizeof text, "%02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
  return text;
}

Json describe_file(const std::string& input, const Options& options) {
  const Bytes data = read_file(input, options.decoder.limits);
  const rdeic_info info = rdeic::read_info(data, options.decoder.limits);
  char checksum[9];
  std::snprintf(checksum, sizeof checksum, "%08" PRIx32, info.checksum);
  const double pixels = static_cast<double>(info.width) * static_cast<double>(info.height);
  return {{"file", input},
          {"bytes", data.size()},
          {"width", info.width},
          {"height", info.height},
          {"bpp", 8 * static_cast<double>(data.size()) / pixels},
          {"rate", info.rate},
          {"model_id", hex(info.model_id)},
          {"z_bytes", info.z_bytes},
          {"y_bytes", info.y_bytes},
          {"icc_bytes", info.icc_bytes},
          {"exif_bytes", info.exif_bytes},
          {"checksum", checksum}};
}

Json describe_bundle(const std::string& input, const Options& options) {
  const rdeic::Bundle bundle(input, options.bundle_flags);
  Json rates = Json::array();
  for (std::uint32_t index = 0; index < bundle.rate_count(); ++index) {
    const rdeic_rate rate = bundle.rate(index);
    rates.push_back({{"index", index},
                     {"label", rate.label},
                     {"bpp", rate.bpp},
                     {"steps", rate.steps},
                     {"model_id", hex(rate.model_id)}});
  }
  return {{"bundle", bundle.name()}, {"folder", bundle.folder()}, {"licence", bundle.licence()}, {"rates", rates}};
}

void info(const std::string& input, const Options& options) {
  const bool is_bundle = input != "-" && std::filesystem::is_directory(input);
  const Json facts = is_bundle ? describe_bundle(input, options) : describe_file(input, options);
  if (options.json) {
    std::cout << facts.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    return;
  }
  for (const auto& [name, value] : facts.items()) {
    if (!value.is_array()) {
      std::cout << name << ": " << (value.is_string() ? value.get<std::string>() : value.dump()) << '\n';
      continue;
    }
    for (const Json& rate : value) {
      std::cout << "rate " << rate["index"] << ": " << rate["label"].get<std::string>() << ", " << rate["bpp"]
                << " bpp, " << rate["steps"] << " steps, model " << rate["model_id"].get<std::string>() << '\n';
    }
  }
}

/// Throws std::bad_alloc where `ulimit -v` leaves so little that ONNX Runtime could not even start without complaints
/// of its own.
void check_address_space() {
  constexpr std::uint64_t kLeast = 32 << 20;
  rlimit limit{};
  std::uint64_t pages = 0;
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  if (!(std::ifstream("/proc/self/statm") >> pages)) return;
  if (limit.rlim_cur < pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) + kLeast) throw std::bad_alloc();
}

/// Runs what is done for one input; returns its exit code, and says on standard error what went wrong.
template <typename Body>
int attempt(const std::string& input, Body&& body) {
  const char* const name = input == "-" ? "standard input" : input.c_str();
  try {
    body();
    return 0;
  } catch (const rdeic::Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return static_cast<int>(error.result()) / 10;
  } catch (const FileError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return RDEIC_RESULT_IO / 10;
  }
}

int run(int argc, char** argv) {
  if (argc >= 2 && argv[1] == std::string_view("--version")) return std::printf("rdeic %s\n", rdeic_version()), 0;
  if (argc >= 2 && (argv[1] == std::string_view("--help") || argv[1] == std::string_view("-h")))
    return std::fputs(kUsage, stdout), 0;
  const std::string_view command = argc >= 2 ? argv[1] : "";
  if (command != "decode" && command != "info") throw UsageError("the command is decode or info");
  if (argc >= 3 && argv[2] == std::string_view("--help")) return std::fputs(kUsage, stdout), 0;
  const Options options = parse(argc - 1, argv + 1);

  int worst = 0;
  std::optional<Decoders> decoders;
  if (command == "decode") {
    check_outputs(options);
    check_address_space();
    worst = attempt(options.bundle.value_or(""), [&] { decoders.emplace(options); });
    if (worst) return worst;
  }
  for (const std::string& input : options.inputs)
    worst =
        std::max(worst, attempt(input, [&] { decoders ? decode(*decoders, input, options) : info(input, options); }));
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  rdeic_tool::reserve_standard_streams();
  int status = 0;
  try {
    status = run(argc, argv);
  } catch (const UsageError& error) {
    if (*error.what()) std::fprintf(stderr, "rdeic: %s\n", error.what());
    std::fputs("Try: rdeic --help\n", stderr);
    status = kExitUsage;
  } catch (const FileError& error) {
    std::fprintf(stderr, "rdeic: %s\n", error.what());
    status = RDEIC_RESULT_IO / 10;
  } catch (const std::bad_alloc&) {
    std::fputs("rdeic: not enough memory\n", stderr);
    status = RDEIC_RESULT_OUT_OF_MEMORY / 10;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rdeic: %s\n", error.what());
    status = RDEIC_RESULT_INTERNAL / 10;
  }
  return rdeic_tool::flush_standard_streams(status);
}
