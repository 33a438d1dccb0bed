// Reads fields of JSON that somebody else wrote.
// Thread-safe: no state. Never throws: a field that is missing or of another type reads as the
// value given for that case.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace zmem {

inline int64_t IntegerAt(const nlohmann::json& object, const char* key, int64_t otherwise) {
  if (!object.is_object()) return otherwise;
  auto field = object.find(key);
  return field != object.end() && field->is_number_integer() ? field->get<int64_t>() : otherwise;
}

// `value` if it is an integer that is not negative, else 0.
inline uint64_t CountOf(const nlohmann::json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  if (!value.is_number_integer()) return 0;
  auto number = value.get<int64_t>();
  return number < 0 ? 0 : static_cast<uint64_t>(number);
}

inline uint64_t CountAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return 0;
  auto field = object.find(key);
  return field == object.end() ? 0 : CountOf(*field);
}

inline double NumberAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return 0;
  auto field = object.find(key);
  return field != object.end() && field->is_number() ? field->get<double>() : 0;
}

inline std::string StringAt(const nlohmann::json& object, const char* key,
                            const std::string& otherwise) {
  if (!object.is_object()) return otherwise;
  auto field = object.find(key);
  return field != object.end() && field->is_string() ? field->get<std::string>() : otherwise;
}

// An empty object when there is none at `key`.
inline nlohmann::json ObjectAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return nlohmann::json::object();
  auto field = object.find(key);
  return field != object.end() && field->is_object() ? *field : nlohmann::json::object();
}

}  // namespace zmem
