// A stretch of private anonymous memory full of pattern pages, as a subject program owns it.
// Thread-safe as far as distinct pages go.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "libzmem/base/page.h"
#include "tests/page_pattern.h"

namespace zmem {

class PatternRegion {
 public:
  // Aligned to a chunk, so that huge pages are possible where the caller asks for them.
  PatternRegion(size_t pages, PageContent content) : pages_(pages), content_(content) {
    void* mapping = mmap(nullptr, pages * kPageBytes + kChunkBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) {
      std::perror("mmap");
      std::exit(2);
    }
    data_ = reinterpret_cast<std::byte*>(
        ChunkStart(reinterpret_cast<Address>(mapping) + kChunkBytes - 1));
  }
  PatternRegion(const PatternRegion&) = delete;
  PatternRegion& operator=(const PatternRegion&) = delete;

  size_t pages() const { return pages_; }
  std::byte* page(uint64_t number) const { return data_ + number * kPageBytes; }
  PageContent content() const { return content_; }

  void Fill(uint64_t version) const {
    for (uint64_t number = 0; number < pages_; ++number) {
      FillPage(page(number), number, version, content_);
    }
  }

  // Empty if every page is of this version; else a description of the first that is not.
  std::string Verify(uint64_t version) const {
    for (uint64_t number = 0; number < pages_; ++number) {
      if (!VerifyPage(page(number), number, version)) return Describe(number, version);
    }
    return "";
  }

  // What is wrong with a page.
  std::string Describe(uint64_t number, uint64_t version) const {
    PageFinding found = InspectPage(page(number));
    char text[160];
    std::snprintf(text, sizeof text, "WRONG page %llu version %llu: %s, number %llu version %llu",
                  static_cast<unsigned long long>(number), static_cast<unsigned long long>(version),
                  found.all_zero ? "all zero"
                  : found.intact ? "intact but another"
                                 : "damaged",
                  static_cast<unsigned long long>(found.number),
                  static_cast<unsigned long long>(found.version));
    return text;
  }

 private:
  const size_t pages_;
  const PageContent content_;
  std::byte* data_;
};

}  // namespace zmem
