#include "libzmem/store/process.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "libzmem/uffd/address_map.h"

namespace zmem {
namespace {

uint64_t HeldBytes(PageEntry entry) {
  return (entry.object_bytes() + kPoolGranuleBytes - 1) / kPoolGranuleBytes * kPoolGranuleBytes;
}

void Add(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.fetch_add(amount, std::memory_order_relaxed);
}
void Subtract(std::atomic<uint64_t>& counter, uint64_t amount) {
  counter.fetch_sub(amount, std::memory_order_relaxed);
}

// 16 random bytes, never all zero.
wire::Token MakeToken() {
  wire::Token token;
  while (token.empty()) {
    if (getrandom(&token, sizeof token, 0) != sizeof token) token = {};
  }
  return token;
}

bool IsSameFilled(PageEntry entry) {
  return entry.state() == PageState::kSameFilled || entry.codec() == CodecId::kSameWord;
}

}  // namespace

void ProcessCounters::CopyLevels(const ProcessCounters& parent) {
  stored_pages = parent.stored_pages.load();
  same_filled_pages = parent.same_filled_pages.load();
  compressed_bytes = parent.compressed_bytes.load();
  held_bytes = parent.held_bytes.load();
  disk_pages = parent.disk_pages.load();
  disk_bytes = parent.disk_bytes.load();
}

void ProcessCounters::AddStored(PageEntry entry) {
  Add(stored_pages, 1);
  if (IsSameFilled(entry)) Add(same_filled_pages, 1);
  if (entry.state() == PageState::kOnDisk) {
    Add(disk_pages, 1);
    Add(disk_bytes, entry.disk_object().bytes);
  }
  if (entry.state() != PageState::kInPool) return;
  Add(compressed_bytes, entry.object_bytes());
  Add(held_bytes, HeldBytes(entry));
}

void ProcessCounters::RemoveStored(PageEntry entry) {
  Subtract(stored_pages, 1);
  if (IsSameFilled(entry)) Subtract(same_filled_pages, 1);
  if (entry.state() == PageState::kOnDisk) {
    Subtract(disk_pages, 1);
    Subtract(disk_bytes, entry.disk_object().bytes);
  }
  if (entry.state() != PageState::kInPool) return;
  Subtract(compressed_bytes, entry.object_bytes());
  Subtract(held_bytes, HeldBytes(entry));
}

Process::Process(PageStore& store, ChunkArena& arena, Userfaultfd uffd)
    : store(store),
      arena(arena),
      uffd(std::move(uffd)),
      table(arena),
      token(MakeToken()),
      clean_pages(store) {}

Process::~Process() {
  for (uint64_t number : table.Numbers()) RemoveChunk(number);
}

std::shared_ptr<Chunk> Process::OwnChunk(Address address) {
  return table.Unshare(ChunkNumber(address),
                       [this](PageEntry entry) { return store.AddReference(entry); });
}

FillResult Process::FillTokenPage() const {
  alignas(kPageBytes) std::byte bytes[kPageBytes] = {};
  std::memcpy(bytes, &token, sizeof token);
  size_t filled = 0;
  return uffd.Copy(token_page, bytes, 1, &filled);
}

void Process::DropUnregistered() {
  constexpr auto kPause = std::chrono::milliseconds(1);
  while (table.size() > 0 && !gone.load(std::memory_order_acquire) && !TryDropUnregistered()) {
    std::this_thread::sleep_for(kPause);
  }
}

bool Process::TryDropUnregistered() {
  GateLock lock(gate);
  absl::StatusOr<AddressMap> map = AddressMap::Read(pid, {});
  if (!map.ok()) return true;  // it has ended
  // An event that waits to be read is read as soon as the gate is open.
  if (FillTokenPage() == FillResult::kChanging) return false;
  auto is_registered = [&map](Address page) {
    auto at = std::partition_point(map->registered().begin(), map->registered().end(),
                                   [page](AddressRange range) { return range.end <= page; });
    return at != map->registered().end() && at->Contains(page);
  };
  for (uint64_t number : table.Numbers()) {
    std::shared_ptr<Chunk> chunk = table.Find(number);
    for (size_t page = 0; chunk != nullptr && page < kPagesPerChunk; ++page) {
      Address address = (number << kChunkShift) + page * kPageBytes;
      if (chunk->Load(page) == PageEntry() || is_registered(address)) continue;
      chunk = OwnChunk(address);
      if (chunk == nullptr) break;
      Retire(chunk->Replace(page, PageEntry()));
    }
  }
  return true;
}

void Process::SetPolicy(const Policy& policy) {
  {
    MutexLock lock(policy_mutex_);
    policy_ = policy;
  }
  limit_bytes.store(policy.limit_bytes, std::memory_order_relaxed);
}

Policy Process::policy() const {
  MutexLock lock(policy_mutex_);
  return policy_;
}

void Process::FindCgroup() {
  auto found = std::make_shared<const MemoryCgroup>(MemoryCgroup::Of(pid));
  {
    MutexLock lock(cgroup_mutex_);
    cgroup_ = std::move(found);
  }
  RefreshRoom();
}

std::shared_ptr<const MemoryCgroup> Process::cgroup() {
  MutexLock lock(cgroup_mutex_);
  return cgroup_;
}

uint64_t Process::CgroupUsedBytes() {
  std::shared_ptr<const MemoryCgroup> found = cgroup();
  return found == nullptr ? 0 : found->UsedBytes();
}

int64_t Process::CgroupRoom() {
  std::shared_ptr<const MemoryCgroup> found = cgroup();
  uint64_t bytes = found == nullptr ? MemoryCgroup::kNoLimit : found->RoomBytes();
  return static_cast<int64_t>(std::min(bytes / kPageBytes, static_cast<uint64_t>(kPlentyOfRoom)));
}

int64_t Process::RefreshRoom() {
  int64_t filled_before = filled_pages.load();
  int64_t pages = CgroupRoom();
  int64_t up_to_limit = LimitRoom();
  limit_is_nearest.store(up_to_limit < pages, std::memory_order_relaxed);
  pages = std::min(pages, up_to_limit);
  // What was filled in meanwhile the kernel may not have told of. Whoever counts it after we have
  // read the counter takes it off after we have stored, or makes us do it again.
  int64_t known = room_pages.load();
  int64_t left = 0;
  do {
    left = pages - (filled_pages.load() - filled_before);
  } while (!room_pages.compare_exchange_weak(known, left));
  return left;
}

int64_t Process::LimitRoom() {
  uint64_t limit = limit_bytes.load(std::memory_order_relaxed);
  if (limit == 0 || is_limit_lifted.load(std::memory_order_relaxed)) return kPlentyOfRoom;
  std::optional<uint64_t> resident = stat.resident_bytes();
  if (!resident) return kPlentyOfRoom;
  if (*resident > limit) {
    uint64_t most = counters.max_overshoot_bytes.load(std::memory_order_relaxed);
    while (*resident - limit > most &&
           !counters.max_overshoot_bytes.compare_exchange_weak(most, *resident - limit)) {
    }
  }
  return (static_cast<int64_t>(limit) - static_cast<int64_t>(*resident)) / int64_t{kPageBytes};
}

void Process::CountFault(Chunk& chunk, size_t page, PageEntry entry, PageAges::Age gone,
                         int64_t now_ns, int64_t waited_ns) {
  uint64_t stall_ns = static_cast<uint64_t>(waited_ns) + ProcessCounters::kWakeUpNs;
  Add(counters.faults_total, 1);
  Add(counters.stall_ns, stall_ns);
  if (entry.state() == PageState::kStaged) {
    Add(counters.probe_faults, 1);
    Add(counters.probe_cost_ns, stall_ns);
  }
  fault_latency.Record(static_cast<uint64_t>(waited_ns));
  chunk.last_fault_ns.store(now_ns, std::memory_order_relaxed);
  chunk.ages.OnWanted(page, gone, epoch.load(std::memory_order_relaxed),
                      residence_epochs.load(std::memory_order_relaxed));
}

void Process::RemoveChunk(uint64_t chunk_number) {
  table.Remove(chunk_number, [this](PageEntry entry) { Retire(entry); });
}

void Process::Retire(PageEntry entry) {
  if (entry.state() == PageState::kStaged) {
    Subtract(counters.staged_pages, 1);
  } else if (entry.stored()) {
    counters.RemoveStored(entry);
    store.Release(entry);
  }
}

void Process::RetireClean(Address page, PageEntry entry,
                          std::span<const std::byte, kPageBytes> bytes, CleanPages::Return how) {
  if (!clean_pages.Keep(page, entry, bytes, how)) return Retire(entry);
  counters.RemoveStored(entry);
}

bool Process::Decode(PageEntry entry, std::span<std::byte, kPageBytes> page,
                     PageStore::Workspace& workspace) const {
  if (entry.state() == PageState::kStaged) {
    return memory.Read(slot_address(entry.slot()), page.data(), kPageBytes);
  }
  return store.Get(entry, page, workspace);
}

}  // namespace zmem
