#include "libzmem/uffd/accessed_bits.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/mutex.h"
#include "libzmem/base/sys.h"
#include "libzmem/uffd/page_table_walk.skel.h"

namespace zmem {
namespace {

#ifdef __x86_64__
constexpr bool kIsX86 = true;
#else
constexpr bool kIsX86 = false;
#endif
constexpr size_t kMostTables = 64;  // as in page_table_walk.bpf.c
constexpr uint64_t kPresentAccessed = 1 << 0 | 1 << 5;
enum Found : uint8_t { kNothing, kTable, kHugePage };  // the same

struct DestroyWalk {
  void operator()(page_table_walk* walk) const { page_table_walk__destroy(walk); }
};

// Where the kernel's tables can be found.
struct Layout {
  uint64_t direct_map = 0;
  int levels = 0;
};

bool IsSame(const wire::PageSet& a, const wire::PageSet& b) {
  return a.Without(b).empty() && b.Without(a).empty();
}

class BpfAccessedBits final : public AccessedBits {
 public:
  explicit BpfAccessedBits(page_table_walk* walk) : walk_(walk) {}

  bool Read(pid_t pid, std::span<const uint64_t> chunk_numbers,
            std::span<wire::PageSet> accessed) override {
    while (!chunk_numbers.empty()) {
      MutexLock lock(mutex_);
      size_t chunks = std::min(chunk_numbers.size(), kMostTables);
      if (!Walk(pid, chunk_numbers.first(chunks))) return false;
      for (size_t i = 0; i < chunks; ++i) accessed[i] = Accessed(i);
      chunk_numbers = chunk_numbers.subspan(chunks);
      accessed = accessed.subspan(chunks);
    }
    return true;
  }

  void Clear(int pidfd, std::span<const AddressRange> ranges) override {
    for (AddressRange range : ranges) ClearParts(pidfd, range);
  }

  // Finds out where tables are by those of this process, of which `chunk_number` has been touched
  // at `touched` only.
  bool FindLayout(uint64_t chunk_number, const wire::PageSet& touched) {
    // The direct map begins at a multiple of 1 GiB (kernel_randomize_memory), and the table that
    // the walk begins at lies in it.
    constexpr uint64_t kAlignment = 1 << 30;
    constexpr uint64_t kMostSteps = 16'384;  // 16 TiB of physical addresses
    MutexLock lock(mutex_);
    if (!Walk(getpid(), {})) return false;
    for (int levels : {4, 5}) {
      for (uint64_t step = 0; step < kMostSteps; ++step) {
        layout_ = {walk_->bss->top_table / kAlignment * kAlignment - step * kAlignment, levels};
        if (!Walk(getpid(), std::span(&chunk_number, 1))) return false;
        if (walk_->bss->found[0] == kTable && IsSame(Accessed(0), touched)) return true;
      }
    }
    return false;
  }

 private:
  // The kernel stops at a mapping that is locked, or of another kind; what lies around it is
  // reached by halves, the large ones first. What cannot be cleared in so many calls is seen when
  // it is read again.
  static void ClearParts(int pidfd, AddressRange range) {
    constexpr size_t kMostCalls = 64;
    std::vector<AddressRange> parts = {range};
    for (size_t call = 0; call < kMostCalls && call < parts.size(); ++call) {
      AddressRange part = parts[call];
      iovec vector{reinterpret_cast<void*>(part.start), part.bytes()};
      bool is_clear = syscall(SYS_process_madvise, pidfd, &vector, 1, MADV_COLD, 0) >= 0;
      if (is_clear || errno != EINVAL || part.pages() <= 1) continue;
      Address middle = part.start + part.pages() / 2 * kPageBytes;
      parts.push_back({part.start, middle});
      parts.push_back({middle, part.end});
    }
  }

  bool Walk(pid_t pid, std::span<const uint64_t> chunk_numbers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    auto& io = *walk_->bss;
    io.pid = pid;
    io.levels = layout_.levels;
    io.direct_map = layout_.direct_map;
    io.chunks = static_cast<unsigned>(chunk_numbers.size());
    std::copy(chunk_numbers.begin(), chunk_numbers.end(), io.chunk_numbers);
    bpf_test_run_opts options{};
    options.sz = sizeof options;
    return bpf_prog_test_run_opts(bpf_program__fd(walk_->progs.WalkPageTables), &options) == 0 &&
           io.top_table != 0;
  }

  wire::PageSet Accessed(size_t slot) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    wire::PageSet pages;
    const auto* table = &walk_->bss->tables[slot * kPagesPerChunk];
    auto is_accessed = [](uint64_t entry) {
      return (entry & kPresentAccessed) == kPresentAccessed;
    };
    if (walk_->bss->found[slot] == kHugePage) {
      if (is_accessed(table[0])) pages.AddRange(0, kPagesPerChunk);
    } else if (walk_->bss->found[slot] == kTable) {
      for (size_t page = 0; page < kPagesPerChunk; ++page) {
        pages.words[page / 64] |= uint64_t{is_accessed(table[page])} << (page % 64);
      }
    }
    return pages;
  }

  Mutex mutex_;
  std::unique_ptr<page_table_walk, DestroyWalk> walk_;
  Layout layout_ ABSL_GUARDED_BY(mutex_);
};

// A chunk of memory of this process's own, in small pages.
class TrialChunk {
 public:
  TrialChunk() {
    void* mapped =
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return;
    mapped_ = reinterpret_cast<Address>(mapped);
    madvise(mapped, kBytes, MADV_NOHUGEPAGE);
  }
  ~TrialChunk() {
    if (is_valid()) munmap(reinterpret_cast<void*>(mapped_), kBytes);
  }
  TrialChunk(const TrialChunk&) = delete;
  TrialChunk& operator=(const TrialChunk&) = delete;

  bool is_valid() const { return mapped_ != 0; }
  Address start() const { return ChunkStart(mapped_ + kChunkBytes - 1); }
  uint64_t number() const { return ChunkNumber(start()); }
  AddressRange range() const { return {start(), start() + kChunkBytes}; }
  void Touch(const wire::PageSet& pages) {
    for (size_t page = pages.Next(0, true); page < kPagesPerChunk;
         page = pages.Next(page + 1, true)) {
      *reinterpret_cast<volatile char*>(start() + page * kPageBytes) = 1;
    }
  }

 private:
  static constexpr size_t kBytes = 2 * kChunkBytes;
  Address mapped_ = 0;
};

absl::Status Untrue(absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("this kernel's page tables are not as expected: ", what));
}

// Tries on this process's own memory all that will be done with others'.
absl::Status Try(BpfAccessedBits& bits) {
  TrialChunk chunk;
  UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!chunk.is_valid() || !self.valid()) return absl::ResourceExhaustedError("no memory");
  wire::PageSet some;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    if (page * page % 7 < 3) some.Add(page);
  }
  chunk.Touch(some);
  if (!bits.FindLayout(chunk.number(), some)) return Untrue("touched pages are not found");
  AddressRange range = chunk.range();
  uint64_t number = chunk.number();
  bits.Clear(self.get(), std::span(&range, 1));
  wire::PageSet kept;
  bool is_read = bits.Read(getpid(), std::span(&number, 1), std::span(&kept, 1));
  // The kernel clears nothing of pages that came just now: each CPU gathers up to 31 before they
  // get onto its lists (PAGEVEC_SIZE), and this thread may have been on some.
  if (!is_read || kept.count() > some.count() / 2) {
    return Untrue("MADV_COLD clears no accessed bits");
  }
  wire::PageSet again;
  again.Add(some.Without(kept).Next(0, true));
  chunk.Touch(again);
  wire::PageSet seen;
  is_read = bits.Read(getpid(), std::span(&number, 1), std::span(&seen, 1));
  if (!is_read || !IsSame(seen, kept.Or(again))) return Untrue("a touch is not seen");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<AccessedBits>> OpenAccessedBits() {
  if (!kIsX86) return absl::UnimplementedError("accessed bits are read on x86-64 only");
  // What libbpf would print is for those who write such programs.
  libbpf_set_print([](libbpf_print_level, const char*, va_list) { return 0; });
  page_table_walk* walk = page_table_walk__open_and_load();
  if (walk == nullptr) {
    return sys::ErrnoStatus(errno, "cannot load the BPF program that reads page tables");
  }
  auto bits = std::make_unique<BpfAccessedBits>(walk);
  if (absl::Status status = Try(*bits); !status.ok()) return status;
  return bits;
}

}  // namespace zmem
