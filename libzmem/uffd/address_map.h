// Which parts of a process may be managed at all: its mappings, and what must be left alone.
// Thread-safe: an AddressMap is a value that does not change.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/page.h"

namespace zmem {

class AddressMap {
 public:
  // Reads /proc/PID/smaps. Left out are mappings that are not private, anonymous, readable and
  // writable and not executable; those that are locked, or that a fork would not copy as they are
  // (MADV_DONTFORK, MADV_WIPEONFORK); stacks; and every range of `excluded`.
  // Errors: NotFound when the process is gone, or what reading says.
  static absl::StatusOr<AddressMap> Read(pid_t pid, const std::vector<AddressRange>& excluded);

  // The same by /proc/PID/maps, which is read without walking page tables, and does not tell what
  // is locked, not copied as it is by a fork, or registered: for finding mappings, not for judging
  // them.
  static absl::StatusOr<AddressMap> ReadLayout(pid_t pid,
                                               const std::vector<AddressRange>& excluded);

  // The same from the text of such files.
  static AddressMap Parse(absl::string_view smaps, const std::vector<AddressRange>& excluded);

  // What may be managed: page-aligned, ascending, disjoint; each range lies in one mapping.
  const std::vector<AddressRange>& eligible() const { return eligible_; }
  // The whole mappings that those ranges lie in, ascending. Two overlap if the process changed them
  // while the file was read; the first that ends after an address of a range is that range's.
  const std::vector<AddressRange>& mappings() const { return mappings_; }
  // What is not eligible for its flags alone (locked, not copied as it is), ascending. Of a layout:
  // nothing.
  const std::vector<AddressRange>& forbidden() const { return forbidden_; }
  // What is registered with a userfaultfd for missing pages, ascending, eligible or not.
  const std::vector<AddressRange>& registered() const { return registered_; }

 private:
  static absl::StatusOr<AddressMap> ReadFrom(const char* name, pid_t pid,
                                             const std::vector<AddressRange>& excluded);

  std::vector<AddressRange> eligible_;
  std::vector<AddressRange> mappings_;
  std::vector<AddressRange> forbidden_;
  std::vector<AddressRange> registered_;
};

// The mapping of `pid` that `address` lies in now; empty if there is none.
AddressRange MappingAt(pid_t pid, Address address);
// Whether one mapping of `pid` covers `range` from end to end now.
bool IsOneMapping(pid_t pid, AddressRange range);

}  // namespace zmem
