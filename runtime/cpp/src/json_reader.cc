#include "json_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "input_limits.h"
#include "status.h"

namespace rdeic {

namespace {

/// Builds a document from what the parser finds.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}

  JsonValue take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(std::int64_t{value}); }
  bool number_unsigned(number_unsigned_t value) override { return add(std::uint64_t{value}); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON

  bool start_object(std::size_t) override { return open(JsonObject{}); }
  bool start_array(std::size_t) override { return open(JsonArray{}); }
  bool end_object() override {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : std::get<JsonObject>(open_.back()->value)) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto repeated = std::adjacent_find(keys.begin(), keys.end());
    if (repeated != keys.end())
      fail(Result::kBundleCorrupt, "%s: not valid JSON: the key '%s' is repeated", where_.c_str(),
           printable(std::string(*repeated)).c_str());
    return close();
  }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    std::get<JsonObject>(open_.back()->value).emplace_back(std::move(value), JsonValue{});
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    fail(Result::kBundleCorrupt, "%s: not valid JSON: %s", where_.c_str(), printable(error.what(), 200).c_str());
  }

 private:
  /// Returns where the next value goes: to the end of the open array, to the last key of the open object.
  JsonValue& place() {
    if (open_.empty()) return root_;
    if (auto* const array = std::get_if<JsonArray>(&open_.back()->value)) return array->emplace_back();
    return std::get<JsonObject>(open_.back()->value).back().second;
  }

  template <typename T>
  bool add(T&& value) {
    place().value = std::forward<T>(value);
    return true;
  }

  template <typename Container>
  bool open(Container container) {
    if (open_.size() == kMaxJsonDepth)
      fail(Result::kBundleCorrupt, "%s: nested more than %zu deep", where_.c_str(), kMaxJsonDepth);
    JsonValue& target = place();
    target.value = std::move(container);
    open_.push_back(&target);  // which stays where it is while it is open: nothing is added to what it lies in
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
};

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  const auto* const object = std::get_if<JsonObject>(&value);
  if (!object) return nullptr;
  const auto found =
      std::find_if(object->begin(), object->end(), [&](const auto& member) { return member.first == key; });
  return found == object->end() ? nullptr : &found->second;
}

JsonValue parse_json(std::string_view text, const std::string& where) {
  // nlohmann-json would end at one, whatever follows.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos)
    fail(Result::kBundleCorrupt, "%s: not valid JSON: byte %zu is zero", where.c_str(), zero);
  Builder builder(where);
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

void JsonReader::wrong(const std::string& wanted) const {
  fail(Result::kBundleCorrupt, "%s: %s must be %s", where_.c_str(), place_.empty() ? "the document" : place_.c_str(),
       wanted.c_str());
}

void JsonReader::check_keys(std::initializer_list<std::string_view> required,
                            std::initializer_list<std::string_view> optional) const {
  if (!is_object()) wrong("an object");
  for (const std::string_view key : required)
    if (!value_.find(key)) wrong("an object with the key '" + std::string(key) + "'");
  for (const auto& [key, value] : std::get<JsonObject>(value_.value))
    if (std::find(required.begin(), required.end(), key) == required.end() &&
        std::find(optional.begin(), optional.end(), key) == optional.end())
      wrong("an object without the key '" + printable(key) + "', which schema 2 does not have");
}

JsonReader JsonReader::at(const char* key) const {
  const JsonValue* const member = value_.find(key);
  if (!member) wrong("an object with the key '" + std::string(key) + "'");
  return {*member, where_, place_.empty() ? key : place_ + "." + key};
}

std::vector<std::pair<std::string, JsonReader>> JsonReader::members(std::size_t least, std::size_t most) const {
  const auto* const object = std::get_if<JsonObject>(&value_.value);
  if (!object || object->size() < least || object->size() > most)
    wrong("an object with at least " + std::to_string(least) +
          (most < SIZE_MAX ? " and at most " + std::to_string(most) : "") + " members");
  std::vector<std::pair<std::string, JsonReader>> result;
  for (const auto& [key, value] : *object)
    result.emplace_back(key, JsonReader(value, where_, place_ + "." + printable(key)));
  return result;
}

std::vector<JsonReader> JsonReader::elements(std::size_t least, std::size_t most) const {
  const auto* const array = std::get_if<JsonArray>(&value_.value);
  if (!array || array->size() < least || array->size() > most)
    wrong("an array of " + std::to_string(least) + " to " + std::to_string(most) + " elements");
  std::vector<JsonReader> result;
  for (const JsonValue& element : *array)
    result.emplace_back(element, where_, place_ + "[" + std::to_string(result.size()) + "]");
  return result;
}

std::string JsonReader::text(std::size_t least) const {
  if (!is_text()) wrong("a text");
  std::string result = std::get<std::string>(value_.value);
  if (result.size() < least) wrong("a text that is not empty");
  return result;
}

std::string JsonReader::choice(std::initializer_list<std::string_view> choices) const {
  std::string result = text();
  if (std::find(choices.begin(), choices.end(), result) != choices.end()) return result;
  std::string wanted = "one of";
  for (const std::string_view one : choices) wanted += " " + std::string(one);
  wrong(wanted);
}

std::string JsonReader::hex_digits(std::size_t count) const {
  std::string result = text();
  const bool fits = result.size() == count && result.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!fits) wrong(std::to_string(count) + " hexadecimal digits in lower case");
  return result;
}

bool JsonReader::is_integer() const {
  return std::holds_alternative<std::int64_t>(value_.value) || std::holds_alternative<std::uint64_t>(value_.value);
}

std::int64_t JsonReader::integer(std::int64_t least, std::int64_t most) const {
  const auto* const natural = std::get_if<std::uint64_t>(&value_.value);
  const auto* const negative = std::get_if<std::int64_t>(&value_.value);
  if (natural && *natural <= INT64_MAX) {
    const auto result = static_cast<std::int64_t>(*natural);
    if (result >= least && result <= most) return result;
  }
  if (negative && *negative >= least && *negative <= most) return *negative;
  wrong("an integer from " + std::to_string(least) + " to " + std::to_string(most));
}

double JsonReader::number() const {
  if (const auto* const natural = std::get_if<std::uint64_t>(&value_.value)) return static_cast<double>(*natural);
  if (const auto* const negative = std::get_if<std::int64_t>(&value_.value)) return static_cast<double>(*negative);
  if (const auto* const real = std::get_if<double>(&value_.value)) return *real;
  wrong("a number");
}

bool JsonReader::truth() const {
  if (const auto* const result = std::get_if<bool>(&value_.value)) return *result;
  wrong("true or false");
}

double JsonReader::positive_number() const {
  const double result = number();
  if (!(result > 0)) wrong("a number over 0");
  return result;
}

}  // namespace rdeic
