// A program's memory as a test makes it: pages whose bytes follow from a key, mappings that can be
// managed, userfaultfds of this process.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"
#include "libzmem/uffd/userfaultfd.h"

namespace zmem {

struct alignas(kPageBytes) PageBytes {
  std::array<std::byte, kPageBytes> bytes;
  friend bool operator==(const PageBytes&, const PageBytes&) = default;
};

// Distinct keys give distinct pages.
PageBytes CompressiblePage(uint64_t key);
PageBytes IncompressiblePage(uint64_t key);
PageBytes FilledPage(uint64_t word);

// The seed of a test's random choices: ZMEM_TEST_SEED if it is set, else a fixed one. Prints it.
uint64_t TestSeed();

// A userfaultfd of this process, non-blocking, before its handshake (first) or after it.
UniqueFd NewUserfaultfd();
Userfaultfd ReadyUserfaultfd();

// Waits until `uffd` has a message to read, at most ten seconds. False if none came.
bool AwaitMessage(const Userfaultfd& uffd);

// Whole chunks of fresh private anonymous memory. To be destroyed after every userfaultfd that it
// is registered with, or unmapping it would wait for the event to be read.
class Mapping {
 public:
  // `at`: where, or 0 for anywhere.
  explicit Mapping(size_t chunks, Address at = 0);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  AddressRange range() const { return range_; }
  AddressRange pages(size_t first, size_t count) const {
    return {address(first), address(first + count)};
  }
  size_t page_count() const { return range_.pages(); }
  Address address(size_t page) const { return range_.start + page * kPageBytes; }
  std::byte* data(size_t page) const { return reinterpret_cast<std::byte*>(address(page)); }

  // As munmap. What was unmapped may be in use by somebody else at once, and is not unmapped again.
  void Unmap(size_t first, size_t count);
  // The pages were moved away.
  void Forget(size_t first, size_t count);

  void Write(size_t page, const PageBytes& bytes) const;
  // Reading a page that is out is what brings it back.
  bool Holds(size_t page, const PageBytes& bytes) const;

 private:
  AddressRange range_;
  std::vector<bool> mapped_;
};

// Runs `body` in a forked child. Returns its pid; the child's exit code is body's result.
// As _Fork(3): libc's locks are not taken, for a fork waits until its event is read, and the thread
// that reads it may want memory, which no daemon shares with its program. So where other threads
// run, `body` must not allocate.
pid_t ForkChild(const std::function<int()>& body);
// The exit code of a child, or minus the signal that ended it.
int Await(pid_t child);

}  // namespace zmem
