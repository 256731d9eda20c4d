#include "onnx_walk.h"

#include <algorithm>
#include <charconv>
#include <cinttypes>
#include <initializer_list>
#include <map>
#include <optional>
#include <string_view>

#include "input_limits.h"
#include "status.h"

namespace rdeic {
namespace {

constexpr std::size_t kMaxDigits = 18;

/// What a field is: a message that is walked, text that is looked at, or something of one or two wire types.
enum class Kind {
  kModel,
  kMainGraph,
  kGraph,
  kTraining,
  kFunction,
  kNode,
  kAttribute,
  kSparse,
  kWeight,
  kTensor,
  kEntry,
  kOpType,
  kOther,  // text, bytes, and messages in which there is no tensor
  kNumber,
  kNumbers,
  kFloat,
  kFloats,
  kDoubles,
};

// What follows the number of a field.
enum Wire : unsigned { kVarint = 0, kEightBytes = 1, kLength = 2, kFourBytes = 5 };

bool has_wire(Kind kind, std::uint64_t wire) {
  switch (kind) {
    case Kind::kNumber:
      return wire == kVarint;
    case Kind::kNumbers:
      return wire == kVarint || wire == kLength;
    case Kind::kFloat:
      return wire == kFourBytes;
    case Kind::kFloats:
      return wire == kFourBytes || wire == kLength;
    case Kind::kDoubles:
      return wire == kEightBytes || wire == kLength;
    default:
      return wire == kLength;
  }
}

struct Known {
  std::uint64_t number;
  Kind kind;
};

// The fields of ONNX's messages up to IR version 13.
constexpr Known kModelFields[] = {{1, Kind::kNumber}, {2, Kind::kOther},     {3, Kind::kOther},     {4, Kind::kOther},
                                  {5, Kind::kNumber}, {6, Kind::kOther},     {7, Kind::kMainGraph}, {8, Kind::kOther},
                                  {14, Kind::kOther}, {20, Kind::kTraining}, {25, Kind::kFunction}, {26, Kind::kOther}};
constexpr Known kMainGraphFields[] = {{1, Kind::kNode},    {2, Kind::kOther},  {5, Kind::kWeight}, {10, Kind::kOther},
                                      {11, Kind::kOther},  {12, Kind::kOther}, {13, Kind::kOther}, {14, Kind::kOther},
                                      {15, Kind::kSparse}, {16, Kind::kOther}};
constexpr Known kGraphFields[] = {{1, Kind::kNode},    {2, Kind::kOther},  {5, Kind::kTensor}, {10, Kind::kOther},
                                  {11, Kind::kOther},  {12, Kind::kOther}, {13, Kind::kOther}, {14, Kind::kOther},
                                  {15, Kind::kSparse}, {16, Kind::kOther}};
constexpr Known kTrainingFields[] = {{1, Kind::kGraph}, {2, Kind::kGraph}, {3, Kind::kOther}, {4, Kind::kOther}};
constexpr Known kFunctionFields[] = {{1, Kind::kOther},  {4, Kind::kOther},  {5, Kind::kOther},
                                     {6, Kind::kOther},  {7, Kind::kNode},   {8, Kind::kOther},
                                     {9, Kind::kOther},  {10, Kind::kOther}, {11, Kind::kAttribute},
                                     {12, Kind::kOther}, {13, Kind::kOther}, {14, Kind::kOther}};
constexpr Known kNodeFields[] = {{1, Kind::kOther},     {2, Kind::kOther}, {3, Kind::kOther}, {4, Kind::kOpType},
                                 {5, Kind::kAttribute}, {6, Kind::kOther}, {7, Kind::kOther}, {8, Kind::kOther},
                                 {9, Kind::kOther},     {10, Kind::kOther}};
constexpr Known kAttributeFields[] = {
    {1, Kind::kOther},  {2, Kind::kFloat},   {3, Kind::kNumber},  {4, Kind::kOther},  {5, Kind::kTensor},
    {6, Kind::kGraph},  {7, Kind::kFloats},  {8, Kind::kNumbers}, {9, Kind::kOther},  {10, Kind::kTensor},
    {11, Kind::kGraph}, {13, Kind::kOther},  {14, Kind::kOther},  {15, Kind::kOther}, {20, Kind::kNumber},
    {21, Kind::kOther}, {22, Kind::kSparse}, {23, Kind::kSparse}};
constexpr Known kSparseFields[] = {{1, Kind::kTensor}, {2, Kind::kTensor}, {3, Kind::kNumbers}};
constexpr Known kTensorFields[] = {{1, Kind::kNumbers}, {2, Kind::kNumber},   {3, Kind::kOther},    {4, Kind::kFloats},
                                   {5, Kind::kNumbers}, {6, Kind::kOther},    {7, Kind::kNumbers},  {8, Kind::kOther},
                                   {9, Kind::kOther},   {10, Kind::kDoubles}, {11, Kind::kNumbers}, {12, Kind::kOther},
                                   {13, Kind::kEntry},  {14, Kind::kNumber},  {16, Kind::kOther}};
constexpr Known kEntryFields[] = {{1, Kind::kOther}, {2, Kind::kOther}};
enum TensorField : std::uint64_t { kDims = 1, kDataType = 2, kName = 8, kExternalData = 13, kDataLocation = 14 };
constexpr std::initializer_list<std::uint64_t> kOwnData = {3, 4, 5, 6, 7, 9, 10, 11};
enum EntryField : std::uint64_t { kKey = 1, kValue = 2 };
constexpr std::uint64_t kDefault = 0, kExternal = 1;
// A node whose attribute names a file that some of ONNX Runtime's providers read, or holds a program for a device.
constexpr std::string_view kForeign = "EPContext";
// Bytes 4 to 7 of a model in ONNX Runtime's own format, as which it would take what also is an ONNX file.
constexpr std::string_view kOtherFormat = "ORTM";
constexpr std::size_t kOtherFormatAt = 4;

/// Returns the fields of a message that is walked; none for anything else.
std::span<const Known> fields_of(Kind kind) {
  switch (kind) {
    case Kind::kModel:
      return kModelFields;
    case Kind::kMainGraph:
      return kMainGraphFields;
    case Kind::kGraph:
      return kGraphFields;
    case Kind::kTraining:
      return kTrainingFields;
    case Kind::kFunction:
      return kFunctionFields;
    case Kind::kNode:
      return kNodeFields;
    case Kind::kAttribute:
      return kAttributeFields;
    case Kind::kSparse:
      return kSparseFields;
    case Kind::kWeight:
    case Kind::kTensor:
      return kTensorFields;
    case Kind::kEntry:
      return kEntryFields;
    default:
      return {};
  }
}

/// Returns the bytes of an element of an ONNX type whose values may lie in other files, 0 for another type.
std::uint64_t element_bytes(std::uint64_t data_type) {
  switch (data_type) {
    case 1:  // float32
    case 6:  // int32
      return 4;
    case 2:  // uint8
    case 3:  // int8
      return 1;
    case 7:  // int64
      return 8;
    case 10:  // float16
      return 2;
    default:
      return 0;
  }
}

/// A message, or what else lies from `start` to `end`; `depth` messages lie around it.
struct Piece {
  Kind kind;
  std::size_t start, end;
  unsigned depth = 0;
};

/// One field of a message; its value if it is a number, and where what it holds lies.
struct Field {
  std::uint64_t number;
  std::uint64_t value;
  Piece piece;
};

/// What counts of a tensor's fields.
struct TensorFields {
  std::vector<Piece> names, dims, entries;
  std::vector<std::uint64_t> data_types, locations;
  bool has_own_data = false;
};

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<std::uint8_t>(text[at]) : 0U; };
    const unsigned first = byte(i);
    const std::size_t more = first < 0x80                    ? 0
                             : first >= 0xc2 && first < 0xe0 ? 1
                             : first < 0xe0                  ? 4
                             : first < 0xf0                  ? 2
                                                             : 3;
    if (more == 4 || first > 0xf4) return false;
    for (std::size_t k = 1; k <= more; ++k)
      if ((byte(i + k) & 0xc0) != 0x80) return false;
    const unsigned second = byte(i + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f))
      return false;
    i += more + 1;
  }
  return true;
}

std::optional<std::uint64_t> whole_number(std::string_view digits) {
  if (digits.empty() || digits.size() > kMaxDigits || digits.find_first_not_of("0123456789") != digits.npos) return {};
  std::uint64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

/// The walk over one file.
class Walk {
 public:
  Walk(std::span<const std::uint8_t> data, const std::string& where) : data_(data), where_(where) {}

  std::vector<ExternalWeight> external_weights() {
    if (text_of({Kind::kModel, 0, data_.size()})
            .substr(0, kOtherFormatAt + kOtherFormat.size())
            .ends_with(kOtherFormat))
      corrupt("begins as ONNX Runtime's own format");
    std::vector<ExternalWeight> weights;
    std::size_t main_graphs = 0;
    std::vector<Piece> messages = {{Kind::kModel, 0, data_.size()}};  // still to be walked
    while (!messages.empty()) {
      const Piece message = messages.back();
      messages.pop_back();
      if (message.depth > kMaxOnnxDepth) corrupt(text("messages lie more than %u deep in each other", kMaxOnnxDepth));
      for_each_field(message, [&](const Field& field) {
        if (field.piece.kind == Kind::kWeight || field.piece.kind == Kind::kTensor) {
          std::optional<ExternalWeight> external = tensor(field.piece);
          if (external) weights.push_back(*std::move(external));
        } else if (field.piece.kind == Kind::kOpType) {
          if (text_of(field.piece) == kForeign)
            corrupt(std::string("a node is ").append(kForeign) + ", which stands for something that is not ONNX");
        } else if (!fields_of(field.piece.kind).empty()) {
          messages.push_back(field.piece);
        }
        main_graphs += field.piece.kind == Kind::kMainGraph ? 1 : 0;
      });
    }
    if (main_graphs != 1) corrupt(text("has %zu graphs, should have one", main_graphs));
    for (const ExternalWeight& weight : weights)
      if (names_[weight.name] > 1) corrupt("weight '" + printable(weight.name) + "' comes twice");
    return weights;
  }

 private:
  [[noreturn]] void corrupt(const std::string& problem) const {
    fail(Result::kBundleCorrupt, "%s: not a graph that a bundle may have: %s", where_.c_str(), problem.c_str());
  }

  [[noreturn]] void corrupt(const Piece& tensor, const std::string& problem) const {
    corrupt(text("tensor at byte %zu: %s", tensor.start, problem.c_str()));
  }

  std::string_view text_of(const Piece& piece) const {
    const auto bytes = data_.subspan(piece.start, piece.end - piece.start);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// Returns the number that begins at a byte, and moves on to where it ends.
  std::uint64_t varint(std::size_t& at, std::size_t end) const {
    constexpr unsigned kMaxShift = 63;
    std::uint64_t value = 0;
    for (unsigned shift = 0; at < end; shift += 7) {
      if (shift > kMaxShift) corrupt(text("byte %zu: a number has more than 10 bytes", at));
      const std::uint8_t byte = data_[at++];
      value |= std::uint64_t{byte & 0x7fU} << shift;
      if (byte >= 0x80) continue;
      if ((shift == kMaxShift && byte > 1) || (shift > 0 && byte == 0))
        corrupt(text("byte %zu: a number is too large, or has more bytes than it needs", at - 1));
      return value;
    }
    corrupt(text("byte %zu: ends within a number", at));
  }

  template <typename Function>
  void for_each_field(const Piece& message, Function&& function) {
    const std::span<const Known> known = fields_of(message.kind);
    for (std::size_t at = message.start; at < message.end;) {
      if (fields_left_-- == 0) corrupt(text("has more than %zu fields", kMaxOnnxFields));
      const std::size_t tag = at;
      const std::uint64_t key = varint(at, message.end), number = key >> 3, wire = key & 7;
      const auto found =
          std::find_if(known.begin(), known.end(), [&](const Known& one) { return one.number == number; });
      if (found == known.end() || !has_wire(found->kind, wire))
        corrupt(text("byte %zu: a field %" PRIu64 " of wire type %" PRIu64 ", which its message does not have", tag,
                     number, wire));
      Field field{number, 0, {found->kind, at, message.end, message.depth + 1}};
      if (wire == kVarint) {
        field.value = varint(at, message.end);
      } else {
        const std::uint64_t bytes = wire == kLength ? varint(at, message.end) : wire == kFourBytes ? 4 : 8;
        if (bytes > message.end - at)
          corrupt(text("byte %zu: field %" PRIu64 " has %" PRIu64 " bytes, %zu are left", tag, number, bytes,
                       message.end - at));
        field.piece.start = at;
        at += static_cast<std::size_t>(bytes);
      }
      field.piece.end = at;
      function(field);
    }
  }

  TensorFields tensor_fields(const Piece& tensor) {
    TensorFields result;
    for_each_field(tensor, [&](const Field& field) {
      if (field.number == kName) result.names.push_back(field.piece);
      if (field.number == kDims) result.dims.push_back(field.piece);
      if (field.number == kExternalData) result.entries.push_back(field.piece);
      if (field.number == kDataType) result.data_types.push_back(field.value);
      if (field.number == kDataLocation) result.locations.push_back(field.value);
      if (std::find(kOwnData.begin(), kOwnData.end(), field.number) != kOwnData.end()) result.has_own_data = true;
    });
    return result;
  }

  /// Returns a tensor if it is a weight in another file, nothing if it holds its values; counts the main graph's.
  std::optional<ExternalWeight> tensor(const Piece& tensor) {
    const TensorFields fields = tensor_fields(tensor);
    const std::string name(fields.names.empty() ? "" : text_of(fields.names.back()));
    if (tensor.kind == Kind::kWeight) ++names_[name];
    const bool is_here = fields.locations.empty() || fields.locations == std::vector{kDefault};
    if (is_here && fields.entries.empty()) return {};
    if (tensor.kind != Kind::kWeight)
      corrupt(tensor, "it names another file, which only initialisers of the main graph may");
    if (fields.locations != std::vector{kExternal}) corrupt(tensor, "its data location should be 1, once");
    if (fields.names.size() != 1 || fields.data_types.size() != 1)
      corrupt(tensor, "it should have one name and one type");
    if (fields.has_own_data) corrupt(tensor, "it has values of its own beside those in another file");
    ExternalWeight weight;
    read_entries(tensor, fields.entries, weight);
    const std::uint64_t bytes_each = element_bytes(fields.data_types[0]);
    if (bytes_each == 0)
      corrupt(tensor, text("values of ONNX type %" PRIu64 " cannot lie in another file", fields.data_types[0]));
    weight.data_type = static_cast<std::int32_t>(fields.data_types[0]);
    read_shape(tensor, fields.dims, weight);
    std::uint64_t wanted = bytes_each;
    bool fits = weight.offset % bytes_each == 0;
    for (const std::int64_t dim : weight.shape)
      fits = fits && !__builtin_mul_overflow(wanted, static_cast<std::uint64_t>(dim), &wanted);
    if (!fits || wanted != weight.size_bytes)
      corrupt(tensor, text("%" PRIu64 " bytes at %" PRIu64 " are not what type and shape take", weight.size_bytes,
                           weight.offset));
    if (!is_utf8(name)) corrupt(tensor, "its name is not UTF-8");
    weight.name = name;
    return weight;
  }

  /// Reads location, offset and length.
  void read_entries(const Piece& tensor, const std::vector<Piece>& entries, ExternalWeight& weight) {
    std::map<std::string_view, std::string_view> pairs;
    for (const Piece& entry : entries) {
      std::vector<std::string_view> keys, values;
      for_each_field(
          entry, [&](const Field& field) { (field.number == kKey ? keys : values).push_back(text_of(field.piece)); });
      if (keys.size() != 1 || values.size() != 1)
        corrupt(tensor, "an entry of external_data is not one key and one value");
      if (!pairs.emplace(keys[0], values[0]).second) corrupt(tensor, "external_data has a key twice");
    }
    if (pairs.size() != 3 || !pairs.contains("location") || !pairs.contains("offset") || !pairs.contains("length"))
      corrupt(tensor, "external_data should have the keys location, offset and length");
    const auto offset = whole_number(pairs["offset"]), length = whole_number(pairs["length"]);
    if (!offset || !length) corrupt(tensor, "offset and length in external_data should be whole numbers");
    weight.location = pairs["location"];
    weight.offset = *offset;
    weight.size_bytes = *length;
  }

  void read_shape(const Piece& tensor, const std::vector<Piece>& dims, ExternalWeight& weight) const {
    bool fits = true;
    for (const Piece& some : dims) {
      for (std::size_t at = some.start; at < some.end && weight.shape.size() <= kMaxOnnxRank;) {
        const std::uint64_t dim = varint(at, some.end);
        fits = fits && dim >= 1 && dim <= INT64_MAX;
        weight.shape.push_back(static_cast<std::int64_t>(dim));
      }
    }
    if (!fits || weight.shape.size() > kMaxOnnxRank)
      corrupt(tensor, text("it should have up to %zu dimensions, each 1 or more", kMaxOnnxRank));
  }

  std::span<const std::uint8_t> data_;
  const std::string& where_;
  std::size_t fields_left_ = kMaxOnnxFields;
  std::map<std::string, std::size_t> names_;  // of the main graph's initialisers -> how many have it
};

}  // namespace

std::vector<ExternalWeight> external_weights(std::span<const std::uint8_t> data, const std::string& where) {
  return Walk(data, where).external_weights();
}

}  // namespace rdeic
