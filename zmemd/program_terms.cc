#include "zmemd/program_terms.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_figures.h"
#include "libzmem/base/quantity.h"
#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

struct SourceName {
  LimitSource source;
  absl::string_view name;
};

constexpr SourceName kSources[] = {
    {LimitSource::kNone, "none"},
    {LimitSource::kParent, "parent"},
    {LimitSource::kConfiguration, "configuration"},
    {LimitSource::kEnvironment, "environment"},
    {LimitSource::kOwner, "owner"},
    {LimitSource::kRoot, "root"},
};

// Present pages in `range`, looked at by a window of chunks after the other: a range can be
// terabytes of address space.
uint64_t PresentPages(const Pagemap& pagemap, AddressRange range) {
  constexpr size_t kWindowChunks = 4096;
  uint64_t pages = 0;
  std::vector<wire::PageSet> present;
  for (Address at = range.start; at < range.end;) {
    Address end = std::min(range.end, ChunkStart(at) + kWindowChunks * kChunkBytes);
    uint64_t first = ChunkNumber(at);
    present.assign(ChunkNumber(end - 1) - first + 1, {});
    pagemap.ScanPresent({at, end}, first, std::span(present));
    for (const wire::PageSet& chunk : present) pages += chunk.count();
    at = end;
  }
  return pages;
}

}  // namespace

absl::string_view LimitSourceName(LimitSource source) {
  for (const SourceName& known : kSources) {
    if (known.source == source) return known.name;
  }
  return "";
}

void ProgramTerms::Configure(const Policy& policy) {
  MutexLock lock(mutex_);
  configured_ = policy;
}

void ProgramTerms::SetEnvironmentLimit(uint64_t bytes) {
  MutexLock lock(mutex_);
  environment_bytes_ = bytes;
}

absl::Status ProgramTerms::SetLimit(uint64_t bytes, bool by_root) {
  MutexLock lock(mutex_);
  if (by_root) {
    root_bytes_ = bytes;
    return absl::OkStatus();
  }
  if (root_bytes_) {
    return absl::PermissionDeniedError(
        absl::StrCat("root has set ", *root_bytes_ == 0 ? "no limit" : FormatBytes(*root_bytes_),
                     " for it; ask as root"));
  }
  uint64_t configured = configured_.limit_bytes;
  if (configured != 0 && (bytes == 0 || bytes > configured)) {
    return absl::PermissionDeniedError(absl::StrCat("the configuration of zmemd gives it ",
                                                    FormatBytes(configured),
                                                    "; ask for no more, or as root"));
  }
  owner_bytes_ = bytes;
  return absl::OkStatus();
}

ResidentLimit ProgramTerms::LimitLocked() const {
  if (root_bytes_) return {*root_bytes_, LimitSource::kRoot};
  ResidentLimit asked{environment_bytes_, LimitSource::kEnvironment};
  if (owner_bytes_) asked = {*owner_bytes_, LimitSource::kOwner};
  uint64_t configured = configured_.limit_bytes;
  if (asked.bytes != 0 && (configured == 0 || asked.bytes < configured)) return asked;
  if (configured != 0) return {configured, LimitSource::kConfiguration};
  return {0, LimitSource::kNone};
}

ResidentLimit ProgramTerms::limit() const {
  MutexLock lock(mutex_);
  return LimitLocked();
}

Policy ProgramTerms::policy(uint64_t must_stay_bytes) const {
  MutexLock lock(mutex_);
  Policy policy = configured_;
  ResidentLimit limit = LimitLocked();
  policy.limit_bytes = limit.bytes;
  bool unchecked =
      limit.source == LimitSource::kConfiguration || limit.source == LimitSource::kEnvironment;
  if (unchecked) policy.limit_bytes = std::max(limit.bytes, must_stay_bytes);
  return policy;
}

uint64_t MustStayBytes(const Process& process) {
  constexpr uint64_t kRoomToMove = uint64_t{1} << 20;
  std::string status;
  if (!sys::ReadFile(absl::StrCat("/proc/", process.pid, "/status"), status).ok()) return 0;
  absl::StatusOr<AddressMap> map = AddressMap::Read(process.pid, {process.agent, process.staging});
  if (!map.ok()) return 0;
  // What is in the staging area is on its way out.
  uint64_t evictable = process.counters.staged_pages.load() * kPageBytes;
  for (AddressRange range : map->eligible()) {
    evictable += PresentPages(process.pagemap, range) * kPageBytes;
  }
  auto bytes = [&status](const char* name) { return BytesFigure(status, name).value_or(0); };
  uint64_t resident = bytes("VmRSS");
  uint64_t of_files = bytes("RssFile") + bytes("RssShmem");
  return std::max(of_files, resident - std::min(evictable, resident)) + kRoomToMove;
}

}  // namespace zmem
