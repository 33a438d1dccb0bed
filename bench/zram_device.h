// A zram block device of our own (lz4), as the kernel's pool beside ours. A guardian process sets
// it up and removes it when its owner ends, in whatever way.
// Not thread-safe.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "libzmem/base/sys.h"

namespace zmem {

class ZramDevice {
 public:
  // Why there can be none here (not root, no zram), or empty.
  static std::string WhyUnavailable();

  // With room for `bytes`. Throws HarnessError if that fails.
  explicit ZramDevice(uint64_t bytes);
  // Removes it, and waits until it is.
  ~ZramDevice();
  ZramDevice(const ZramDevice&) = delete;
  ZramDevice& operator=(const ZramDevice&) = delete;

  // Writes whole pages, `pages` being aligned to one, past the page cache. Throws.
  void Write(uint64_t first_page, std::span<const std::byte> pages);
  // Frees what is stored of one page. Throws.
  void Discard(uint64_t page);
  // Has zsmalloc compact its pool.
  void Compact();

  struct Usage {
    uint64_t compressed_bytes = 0;  // of what is stored; a page it stores raw counts as one
    uint64_t held_bytes = 0;        // what that takes, without zram's table
  };
  Usage usage() const;

 private:
  std::string AttributePath(const char* name) const;
  void SetAttribute(const char* name, const std::string& value);

  pid_t guardian_ = -1;
  UniqueFd alive_;  // its closing tells the guardian
  int number_ = -1;
  UniqueFd device_;
};

}  // namespace zmem
