#include "bench/page_samples.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

namespace zmem::bench {
namespace {

// splitmix64: the standard library's distributions differ between implementations, this does not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  // Small values are more frequent, as with words and sizes.
  uint64_t Skewed(uint64_t bound) { return Below(1 + Below(bound)); }

 private:
  uint64_t state_;
};

using Page = std::span<std::byte, kPageBytes>;

void PutWord(Page page, size_t at, uint64_t word) {
  if (at + sizeof word <= kPageBytes) std::memcpy(page.data() + at, &word, sizeof word);
}

// One of `kWords` words, made of syllables; the same number is the same word in every page.
constexpr uint64_t kWords = 2000;
void AppendWord(Random& random, char* text, size_t text_bytes) {
  static constexpr const char* kSyllables[] = {"ta",  "re", "mo", "lin", "ser", "va", "con", "di",
                                               "pro", "ne", "su", "per", "ion", "al", "ma",  "est"};
  Random word(random.Skewed(kWords));
  size_t used = std::strlen(text);
  for (uint64_t syllables = 1 + word.Below(4); syllables > 0; --syllables) {
    const char* syllable = kSyllables[word.Below(std::size(kSyllables))];
    used += static_cast<size_t>(std::snprintf(text + used, text_bytes - used, "%s", syllable));
  }
}

void FillText(Random& random, Page page) {
  static constexpr const char* kStates[] = {"active", "pending", "closed", "suspended"};
  // The page begins in the middle of a record, as pages do.
  size_t at = 0;
  size_t skipped = random.Below(100);
  while (at < kPageBytes) {
    char words[256] = "";
    for (uint64_t count = 2 + random.Below(7); count > 0; --count) {
      AppendWord(random, words, sizeof words);
      if (count > 1) std::strcat(words, " ");
    }
    char record[512];
    int length = std::snprintf(
        record, sizeof record,
        "{\"id\":%" PRIu64 ",\"session\":\"%016" PRIx64 "\",\"created_at\":%" PRIu64
        ",\"state\":\"%s\",\"score\":%" PRIu64 ".%02" PRIu64 ",\"title\":\"%s\"},\n",
        random.Below(10'000'000), random.Next(), 1'700'000'000 + random.Below(30'000'000),
        kStates[random.Skewed(std::size(kStates))], random.Skewed(1000), random.Below(100), words);
    size_t bytes = std::min(static_cast<size_t>(length) - skipped, kPageBytes - at);
    std::memcpy(page.data() + at, record + skipped, bytes);
    at += bytes;
    skipped = 0;
  }
}

// A node as of a tree or hash table on a malloc heap, at `at`; returns its size.
size_t FillNode(Random& random, Page page, size_t at, uint64_t heap, uint64_t image) {
  size_t fields = 2 + random.Skewed(10);
  PutWord(page, at, (fields + 1) * 8 | 1);                  // malloc's chunk header
  PutWord(page, at + 8, image + random.Skewed(24) * 0x58);  // vtable
  for (size_t field = 2; field <= fields; ++field) {
    uint64_t word = 0;
    switch (random.Below(8)) {
      case 0:
      case 1:
      case 2:  // pointer to a neighbour
        word = heap + random.Skewed(1 << 16) * 16;
        break;
      case 3:  // pointer anywhere on the heap
        word = heap + random.Below(1 << 24) * 16;
        break;
      case 4:  // count, length or flags
        word = random.Skewed(200);
        break;
      case 5:  // hash or double
        word = random.Next() >> random.Below(2) * 32;
        break;
      case 6: {  // short string
        char text[64] = "";
        AppendWord(random, text, sizeof text);
        std::memcpy(&word, text, sizeof word);
        break;
      }
      default:  // null
        break;
    }
    PutWord(page, at + field * 8, word);
  }
  return (fields + 1) * 8;
}

void FillHeap(Random& random, uint64_t index, Page page) {
  constexpr uint64_t kImage = 0x000055d2'1f3c'4a10;
  uint64_t heap = 0x00007f3a'8c00'0000 + index * kPageBytes;
  size_t at = random.Below(8) * 8;
  while (at < kPageBytes) {
    if (random.Below(12) == 0) {
      at += 16 + random.Below(10) * 16;  // a hole
    } else {
      at += FillNode(random, page, at, heap, kImage);
    }
  }
}

void FillSparse(Random& random, uint64_t index, Page page) {
  uint64_t heap = 0x00007f3a'8c00'0000 + index * kPageBytes;
  for (uint64_t nodes = 1 + random.Below(12); nodes > 0; --nodes) {
    FillNode(random, page, random.Below(kPageBytes / 8) * 8, heap, 0x000055d2'1f3c'4a10);
  }
}

void FillRandom(Random& random, Page page) {
  for (size_t at = 0; at < kPageBytes; at += 8) PutWord(page, at, random.Next());
}

}  // namespace

std::string_view PageKindName(PageKind kind) {
  switch (kind) {
    case PageKind::kText:
      return "text";
    case PageKind::kHeap:
      return "heap";
    case PageKind::kSparse:
      return "sparse";
    case PageKind::kRandom:
      return "random";
  }
  return "";
}

void FillSamplePage(PageKind kind, uint64_t index, std::span<std::byte, kPageBytes> page) {
  Random random(index * std::size(kPageKinds) + static_cast<uint64_t>(kind));
  std::memset(page.data(), 0, kPageBytes);
  switch (kind) {
    case PageKind::kText:
      return FillText(random, page);
    case PageKind::kHeap:
      return FillHeap(random, index, page);
    case PageKind::kSparse:
      return FillSparse(random, index, page);
    case PageKind::kRandom:
      return FillRandom(random, page);
  }
}

PageKind MixedPageKind(uint64_t index) {
  uint64_t percent = Random(~index).Below(100);
  if (percent < 45) return PageKind::kHeap;
  if (percent < 75) return PageKind::kText;
  return percent < 95 ? PageKind::kSparse : PageKind::kRandom;
}

}  // namespace zmem::bench
