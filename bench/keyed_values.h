// What a key-value server is filled with: about 1 KiB of realistic text for every item, which says
// which item and which version it is and has a checksum, so that whoever reads one back can tell
// whether it is right at the price of hashing it. The bodies are cut from tests/documents.h.
// Immutable and thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace zmem {

class KeyedValues {
 public:
  KeyedValues();

  // The key of an item, such as "document:00000017" (hexadecimal).
  static std::string Key(uint32_t item);

  // Appends the value of an item in a version to `out`: 512 to 1536 bytes.
  void Append(uint32_t item, uint32_t version, std::string& out) const;

  // Whether `value` is that, to the last bit.
  static bool Right(absl::string_view value, uint32_t item, uint32_t version);

  // What is wrong with a value that is not right.
  static std::string Describe(absl::string_view value, uint32_t item, uint32_t version);

 private:
  std::string corpus_;
};

// The mean size of a value.
inline constexpr uint64_t kMeanValueBytes = 1024;

}  // namespace zmem
