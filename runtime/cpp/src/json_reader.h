#pragma once

// JSON documents, and checked access to them: a value that knows where it is, so that every message can say so.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace rdeic {

struct JsonValue;
using JsonArray = std::vector<JsonValue>;
using JsonObject = std::vector<std::pair<std::string, JsonValue>>;  // in the document's order, without repeated keys

/// A document. nlohmann-json only parses: its own values allocate when they are destroyed, and cannot where memory has
/// run out.
struct JsonValue {
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, JsonArray, JsonObject> value;

  /// Returns the member of this key, or nullptr if there is none or this is no object.
  const JsonValue* find(std::string_view key) const;
};

/// Returns a document of JSON (RFC 8259) without repeated keys, nested at most kMaxJsonDepth deep; `where` begins
/// messages. Throws Error(kBundleCorrupt).
JsonValue parse_json(std::string_view text, const std::string& where);

/// A value in a document. Every method throws Error(kBundleCorrupt), with the value's place, if it is not what is
/// asked.
class JsonReader {
 public:
  /// `where` names the document and must outlive the reader, as `value` must.
  JsonReader(const JsonValue& value, const std::string& where, std::string place = {})
      : value_(value), where_(where), place_(std::move(place)) {}

  /// Checks that this is an object that has all of the `required` keys, and no others but `optional` ones.
  void check_keys(std::initializer_list<std::string_view> required,
                  std::initializer_list<std::string_view> optional = {}) const;
  bool has(const char* key) const { return value_.find(key) != nullptr; }
  JsonReader at(const char* key) const;

  /// Returns the members of an object in the document's order; there must be `least` to `most`.
  std::vector<std::pair<std::string, JsonReader>> members(std::size_t least, std::size_t most = SIZE_MAX) const;
  /// Returns the elements of an array; there must be `least` to `most`.
  std::vector<JsonReader> elements(std::size_t least, std::size_t most) const;

  bool is_object() const { return std::holds_alternative<JsonObject>(value_.value); }
  bool is_text() const { return std::holds_alternative<std::string>(value_.value); }
  bool is_integer() const;
  std::string text(std::size_t least = 0) const;
  /// Returns a text that is one of the choices.
  std::string choice(std::initializer_list<std::string_view> choices) const;
  /// Returns a text of as many hexadecimal digits, in lower case.
  std::string hex_digits(std::size_t count) const;
  std::int64_t integer(std::int64_t least, std::int64_t most) const;
  double number() const;
  bool truth() const;
  double positive_number() const;

  [[noreturn]] void wrong(const std::string& wanted) const;

 private:
  const JsonValue& value_;
  const std::string& where_;
  std::string place_;
};

}  // namespace rdeic
