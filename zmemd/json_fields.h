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

// As IntegerAt, for what cannot be negative; 0 when it is or is missing.
inline uint64_t CountAt(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return 0;
  auto field = object.find(key);
  return field != object.end() && field->is_number_unsigned() ? field->get<uint64_t>() : 0;
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
