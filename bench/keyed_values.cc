#include "bench/keyed_values.h"

#include <xxhash.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/documents.h"
#include "tests/page_pattern.h"

namespace zmem {
namespace {

// Many times what a codec sees at once, and little beside the server's memory.
constexpr size_t kCorpusBytes = 16 << 20;
constexpr uint64_t kLeastBytes = 512;
constexpr uint64_t kMostBytes = 1536;
static_assert((kLeastBytes + kMostBytes) / 2 == kMeanValueBytes);
// "item version checksum\n", hexadecimal.
constexpr size_t kHeadBytes = 8 + 1 + 8 + 1 + 16 + 1;

uint64_t Identity(uint32_t item, uint32_t version) { return uint64_t{item} << 32 | version; }

uint64_t Hash(absl::string_view body, uint32_t item, uint32_t version) {
  return XXH3_64bits_withSeed(body.data(), body.size(), Identity(item, version));
}

uint64_t ValueBytes(uint32_t item, uint32_t version) {
  uint64_t random = page_pattern_internal::Mix(Identity(item, version));
  return kLeastBytes + random % (kMostBytes - kLeastBytes + 1);
}

std::string Head(uint32_t item, uint32_t version, uint64_t hash) {
  return absl::StrCat(absl::Hex(item, absl::kZeroPad8), " ", absl::Hex(version, absl::kZeroPad8),
                      " ", absl::Hex(hash, absl::kZeroPad16), "\n");
}

}  // namespace

KeyedValues::KeyedValues() {
  for (uint64_t index = 0; corpus_.size() < kCorpusBytes; ++index) corpus_ += Document(index);
}

std::string KeyedValues::Key(uint32_t item) {
  return absl::StrCat("document:", absl::Hex(item, absl::kZeroPad8));
}

void KeyedValues::Append(uint32_t item, uint32_t version, std::string& out) const {
  uint64_t random = page_pattern_internal::Mix(~Identity(item, version));
  absl::string_view body(corpus_.data() + random % (corpus_.size() - kMostBytes),
                         ValueBytes(item, version) - kHeadBytes);
  absl::StrAppend(&out, Head(item, version, Hash(body, item, version)), body);
}

bool KeyedValues::Right(absl::string_view value, uint32_t item, uint32_t version) {
  if (value.size() != ValueBytes(item, version)) return false;
  absl::string_view body = value.substr(kHeadBytes);
  return value.substr(0, kHeadBytes) == Head(item, version, Hash(body, item, version));
}

std::string KeyedValues::Describe(absl::string_view value, uint32_t item, uint32_t version) {
  return absl::StrCat("WRONG ", Key(item), " version ", version, ": ", value.size(),
                      " bytes instead of ", ValueBytes(item, version), ", which begin \"",
                      absl::CHexEscape(value.substr(0, kHeadBytes - 1)), "\"");
}

}  // namespace zmem
