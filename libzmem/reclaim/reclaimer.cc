#include "libzmem/reclaim/reclaimer.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <thread>
#include <utility>

#include "libzmem/store/chunk_pages.h"
#include "libzmem/uffd/thread_memory.h"

namespace zmem {
namespace {

// A chunk is hot if more than this share of the pages taken was wanted back on probation: below it
// the rest is worth taking.
constexpr size_t HotPages(size_t taken) {
  constexpr size_t kHotDivisor = 8;
  constexpr size_t kHotAtLeast = 2;
  return std::max(taken / kHotDivisor, kHotAtLeast);
}

// `count` of the pages, evenly spread over them.
wire::PageSet SampleOf(const wire::PageSet& pages, size_t count) {
  wire::PageSet sample;
  size_t in_all = pages.count();
  size_t index = 0;
  size_t picked = 0;
  for (size_t page = pages.Next(0, true); page < kPagesPerChunk && picked < count;
       page = pages.Next(page + 1, true), ++index) {
    if (index * count < picked * in_all) continue;
    sample.Add(page);
    ++picked;
  }
  return sample;
}

}  // namespace

Reclaimer::Reclaimer(Process& process, AgentLink& agent, const Clock& clock, const Options& options)
    : process_(process),
      agent_(agent),
      clock_(clock),
      options_(options),
      isolator_(process, agent, clock),
      surveyor_(process, isolator_),
      epochs_(clock.now_ns()),
      scanner_(epochs_),
      budget_(clock.now_ns()),
      touched_(process, options.accessed_bits),
      last_scan_ns_(clock.now_ns()) {}

int64_t Reclaimer::next_scan_ns() const {
  return last_scan_ns_ + process_.policy().scan_interval_ns;  // which may have changed since
}

int64_t Reclaimer::next_tick_ns() const {
  bool on_probation =
      std::any_of(slabs_.begin(), slabs_.end(), [](const Slab& s) { return s.used; });
  int64_t next_ns = next_scan_ns();
  if (process_.is_limited()) next_ns = std::min(next_ns, next_limit_ns_);
  if (!on_probation && cold_chunks_.empty()) return next_ns;
  return std::min(next_ns, clock_.now_ns() + kProbationTickNs);
}

absl::Status Reclaimer::Tick() {
  if (absl::Status status = SettleForFork(); !status.ok()) return status;
  int64_t now_ns = clock_.now_ns();
  if (absl::Status status = ReturnHugePages(now_ns); !status.ok()) return status;
  UpdateStallBudget(now_ns);
  if (absl::Status status = SettleProbations(now_ns); !status.ok()) return status;
  if (absl::Status status = HoldLimit(now_ns); !status.ok()) return status;
  if (absl::Status status = TakeWanted(); !status.ok()) return status;
  if (absl::Status status = FollowAdvice(); !status.ok()) return status;
  if (now_ns >= next_scan_ns()) {
    last_scan_ns_ = now_ns;
    if (IsAsleep(now_ns)) {
      ReleaseTools();
    } else {
      scanned_ns_ = now_ns;
      if (absl::Status status = Scan(now_ns); !status.ok()) return status;
    }
  }
  return IsolateColdChunks(now_ns);
}

absl::StatusOr<Reclaimer::NeededMemory> Reclaimer::FindNeeded() const {
  absl::StatusOr<std::vector<AddressRange>> ranges = ThreadMemory(process_.pid, process_.memory);
  std::optional<KeptRanges> kept;
  if (ranges.ok()) {
    kept = process_.kept == 0 ? KeptRanges{} : ReadKept(process_.kept, process_.memory);
  }
  if (!kept) return absl::UnavailableError("the program is gone");
  ranges->insert(ranges->end(), kept->ranges.begin(), kept->ranges.end());
  return NeededMemory{*std::move(ranges), kept->generation};
}

absl::Status Reclaimer::Scan(int64_t now_ns) {
  process_.FindCgroup();  // a process can be moved, and limits can change
  Policy policy = process_.policy();
  pool_full_ = false;
  cold_chunks_.clear();
  if (policy.mode == ReclaimMode::kLimitOnly && policy.limit_bytes == 0) return absl::OkStatus();
  absl::StatusOr<Survey> survey = surveyor_.LookByLayout();
  if (!survey.ok()) return survey.status();
  BeginEpoch(now_ns);
  is_idle_ = IsIdle(now_ns);
  bool is_proactive = policy.mode == ReclaimMode::kProactive;
  if (now_ns - victims_ns_ > kVictimsAgeNs) {
    // No room had to be made lately: pages stay in for the cold age.
    int64_t epochs = policy.cold_age_ns / std::max<int64_t>(policy.scan_interval_ns, 1);
    process_.residence_epochs.store(
        static_cast<unsigned>(std::clamp<int64_t>(epochs, 1, EpochClock::kExpiryEpochs)),
        std::memory_order_relaxed);
  }
  std::vector<TouchedPages::Touched> touched = touched_.Look(
      survey->chunks, is_idle_ ? TouchedPages::Effort::kFull : TouchedPages::Effort::kSparing);
  victims_.chunks.clear();  // what of them is touched was to be seen against the look before
  std::vector<Candidate> cold;
  std::vector<size_t> present_pages;  // of their chunks
  for (size_t i = 0; i < survey->chunks.size(); ++i) {
    const Candidate& candidate = survey->chunks[i];
    std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
    ColdScanner::Look look{candidate.chunk_number, candidate.pages, touched[i], chunk.get()};
    wire::PageSet pages = scanner_.Observe(look, policy.cold_age_ns, now_ns);
    if (pages.empty()) continue;
    cold.push_back({candidate.chunk_number, pages});
    present_pages.push_back(candidate.pages.count());
  }
  AddressMap map = std::move(survey->map);
  if (!cold.empty()) {
    absl::StatusOr<AddressMap> judged = surveyor_.Judge(cold);
    if (!judged.ok()) return judged.status();
    map = *std::move(judged);
  }
  std::vector<uint64_t> to_register;
  for (size_t i = 0; i < cold.size(); ++i) {
    size_t pages = cold[i].pages.count();
    if (!is_proactive || pages == 0) continue;
    if (pages < kWorthTaking && pages < present_pages[i]) continue;
    if (surveyor_.IsRegistered(cold[i])) {
      cold_chunks_.push_back(cold[i]);
    } else {
      to_register.push_back(cold[i].chunk_number);
    }
  }
  process_.counters.cold_pages.store(CountPages(cold), std::memory_order_relaxed);
  // A program at its limit needs its mappings registered, so that it can be slowed down there.
  bool is_near_limit =
      policy.limit_bytes != 0 &&
      process_.RefreshRoom() < static_cast<int64_t>(policy.limit_bytes / kPageBytes / 4);
  if (!is_near_limit) surveyor_.UnregisterHot(map, cold_chunks_);
  // Their pages are for the next scan.
  for (uint64_t chunk_number : to_register) surveyor_.Register(chunk_number, map);
  scanner_.ForgetUnseen();
  return absl::OkStatus();
}

void Reclaimer::BeginEpoch(int64_t now_ns) {
  epochs_.Advance(now_ns);
  process_.epoch.store(epochs_.now(), std::memory_order_relaxed);
  if (!epochs_.IsExpiryDue()) return;
  for (uint64_t number : process_.table.Numbers()) {
    std::shared_ptr<Chunk> chunk = process_.table.Find(number);
    for (size_t page = 0; chunk != nullptr && page < kPagesPerChunk; ++page) {
      Epoch epoch = chunk->ages.Get(page).epoch;
      if (EpochsBetween(epoch, epochs_.now()) > EpochClock::kExpiryEpochs) {
        chunk->ages.SetEpoch(page, 0);
      }
    }
  }
}

bool Reclaimer::IsAsleep(int64_t now_ns) {
  Activity activity{process_.stat.cpu_ns(), process_.counters.taken_pages(), process_.policy()};
  if (!activity.cpu_ns || activity != activity_) asleep_since_ns_ = now_ns;
  activity_ = activity;
  return now_ns - scanned_ns_ < (now_ns - asleep_since_ns_) / kAsleepShare;
}

bool Reclaimer::IsIdle(int64_t now_ns) {
  std::optional<int64_t> cpu_ns = process_.stat.cpu_ns();
  bool is_idle = cpu_ns && cpu_looked_ns_ != 0 &&
                 (*cpu_ns - cpu_ns_) * 100 <= (now_ns - cpu_looked_ns_) * kIdlePercent;
  cpu_ns_ = cpu_ns.value_or(0);
  cpu_looked_ns_ = cpu_ns ? now_ns : 0;
  return is_idle;
}

absl::Status Reclaimer::IsolateColdChunks(int64_t now_ns) {
  while (!cold_chunks_.empty() && !pool_full_ && !Interrupted()) {
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    size_t slab = TakeSlab();
    if (slab == kNoSlab || !budget_.Allows(now_ns)) return absl::OkStatus();
    Candidate candidate = cold_chunks_.back();
    cold_chunks_.pop_back();
    if (absl::Status status = TakeOnProbation(candidate, slab, now_ns); !status.ok()) return status;
  }
  cold_chunks_.clear();
  return absl::OkStatus();
}

absl::Status Reclaimer::TakeOnProbation(const Candidate& candidate, size_t slab, int64_t now_ns) {
  LookAgain(candidate, kLookAgainAges * process_.policy().cold_age_ns);
  uint64_t number = candidate.chunk_number;
  wire::PageSet wanted = Compressible(candidate);
  wire::PageSet rest;
  bool is_huge = NoteHuge(slab, number, wanted);
  bool is_sampled = !touched_.can_see() && !is_idle_ && !is_huge && !Forking(now_ns) &&
                    wanted.count() >= kSampledPages;
  if (is_sampled) {
    wire::PageSet sample = SampleOf(wanted, kSamplePages);
    rest = wanted.Without(sample);
    wanted = sample;
  }
  Isolator::Order order{number, wanted, slab};
  absl::Status status = Take(std::span(&order, 1));
  if (order.moved.count() < kPagesPerChunk) process_.huge_slabs[slab].whole.store(false);
  NoteTaken(order, rest, now_ns);
  if (!status.ok()) return status;
  if (order.moved.empty()) {
    scanner_.OnHot(number, now_ns);  // not now: ask less often
    return absl::OkStatus();
  }
  budget_.Spend(order.moved.count());
  return Forking(now_ns) ? StoreSlab(slab, &pool_full_) : absl::OkStatus();
}

absl::Status Reclaimer::TakeRest(size_t slab, int64_t now_ns) {
  Isolator::Order order{slabs_[slab].chunk_number, slabs_[slab].rest, slab};
  absl::Status status = Take(std::span(&order, 1));
  NoteTaken(order, {}, now_ns);
  if (status.ok()) budget_.Spend(order.moved.count());
  return status;
}

void Reclaimer::NoteTaken(const Isolator::Order& order, const wire::PageSet& rest, int64_t now_ns) {
  Slab& record = slabs_[order.slab];
  if (record.used) {
    record.rest = rest;
    record.staged_ns = now_ns;
    record.pages = record.pages.Or(order.moved);
  } else if (!order.moved.empty()) {
    record = {true, order.chunk_number, order.moved, rest, now_ns};
  }
  scanner_.OnTaken(order.chunk_number, order.moved);
  SetEpochs(order.chunk_number, order.moved);
}

void Reclaimer::SetEpochs(uint64_t chunk_number, const wire::PageSet& pages) {
  std::shared_ptr<Chunk> chunk = process_.table.Find(chunk_number);
  for (size_t page = pages.Next(0, true); chunk != nullptr && page < kPagesPerChunk;
       page = pages.Next(page + 1, true)) {
    chunk->ages.SetEpoch(page, epochs_.now());
  }
}

wire::PageSet Reclaimer::Compressible(const Candidate& candidate) const {
  wire::PageSet pages;
  std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
  if (chunk == nullptr) return pages;
  for (size_t page = candidate.pages.Next(0, true); page < kPagesPerChunk;
       page = candidate.pages.Next(page + 1, true)) {
    if (!chunk->Load(page).Has(PageEntry::kIncompressible)) pages.Add(page);
  }
  return pages;
}

void Reclaimer::LookAgain(const Candidate& candidate, int64_t age_ns) {
  std::shared_ptr<Chunk> chunk = process_.table.Find(candidate.chunk_number);
  if (chunk == nullptr) return;
  int64_t now_ns = clock_.now_ns();
  int64_t last_ns = chunk->incompressible_ns.load(std::memory_order_relaxed);
  if (last_ns == 0 || now_ns - last_ns < age_ns) return;
  chunk->incompressible_ns.store(now_ns, std::memory_order_relaxed);
  wire::PageSet changed;
  Address start = candidate.chunk_number << kChunkShift;
  auto bytes = std::span(tools().bytes).first<kPageBytes>();
  for (size_t page = candidate.pages.Next(0, true); page < kPagesPerChunk;
       page = candidate.pages.Next(page + 1, true)) {
    // As it is in the program, without taking it.
    if (chunk->Load(page).Has(PageEntry::kIncompressible) &&
        process_.memory.Read(start + page * kPageBytes, bytes.data(), kPageBytes) &&
        process_.store.IsCompressible(bytes, tools().workspace, process_.policy().compressor)) {
      changed.Add(page);
    }
  }
  if (changed.empty()) return;
  GateLock lock(process_.gate);
  chunk = process_.OwnChunk(start);
  for (size_t page = changed.Next(0, true); chunk != nullptr && page < kPagesPerChunk;
       page = changed.Next(page + 1, true)) {
    PageEntry marked = PageEntry().With(PageEntry::kIncompressible);
    chunk->Transition(page, marked, PageEntry());
  }
}

absl::Status Reclaimer::Take(std::span<Isolator::Order> orders) {
  absl::StatusOr<NeededMemory> needed = FindNeeded();
  if (!needed.ok()) return needed.status();
  for (Isolator::Order& order : orders) {
    order.pages = order.pages.Without(PagesIn(order.chunk_number, needed->ranges));
  }
  absl::Status status = IsolateMovable(orders, needed->kept_generation);
  // A thread may have started, or locked a robust mutex, between the look and the move.
  constexpr int kTries = 5;  // a program that changes its layout can hold up the way back
  bool is_settled = false;
  for (int tries = 0; status.ok() && !is_settled && tries < kTries; ++tries) {
    needed = FindNeeded();
    if (!needed.ok()) return needed.status();
    is_settled = true;
    for (Isolator::Order& order : orders) {
      wire::PageSet wrongly = order.moved.And(PagesIn(order.chunk_number, needed->ranges));
      if (wrongly.empty()) continue;
      is_settled = false;
      auto returned = isolator_.Return(order.chunk_number, wrongly, order.slab, 0);
      if (!returned.ok()) return returned.status();
      order.moved = order.moved.Without(*returned);
    }
  }
  return status;
}

absl::Status Reclaimer::IsolateMovable(std::span<Isolator::Order> orders,
                                       uint32_t kept_generation) {
  if (process_.last_fork_ns.load(std::memory_order_relaxed) != 0) {
    // What a relative still shares the kernel does not move (FACTS 15).
    for (Isolator::Order& order : orders) {
      order.pages = isolator_.Exclusive(order.chunk_number, order.pages);
    }
  }
  absl::Status status = isolator_.Isolate(orders, kept_generation);
  if (!status.ok()) return status;
  for (Isolator::Order& order : orders) {
    wire::PageSet refused =
        order.pages.And(process_.table.Registered(order.chunk_number)).Without(order.moved);
    if (refused.empty()) continue;
    absl::StatusOr<wire::PageSet> mended = isolator_.Unshare(order.chunk_number, refused);
    if (!mended.ok() || mended->empty()) continue;
    Isolator::Order again{order.chunk_number, *mended, order.slab};
    status = isolator_.Isolate(std::span(&again, 1), kept_generation);
    order.moved = order.moved.Or(again.moved);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

size_t Reclaimer::TakeSlab() {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) return slab;
  }
  return kNoSlab;
}

absl::Status Reclaimer::ReturnStaged() {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = ReturnSlab(slab); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::SettleForFork() {
  if (!agent_.Asked(wire::Wish::kSettle)) return absl::OkStatus();
  process_.last_fork_ns.store(clock_.now_ns(), std::memory_order_relaxed);
  absl::Status status = ReturnStaged();
  agent_.Grant(wire::Wish::kSettle);
  return status;
}

bool Reclaimer::NoteHuge(size_t slab, uint64_t chunk_number, const wire::PageSet& wanted) {
  Process::HugeSlab& huge = process_.huge_slabs[slab];
  huge.wanted_ns.store(0, std::memory_order_relaxed);
  bool whole = wanted.count() == kPagesPerChunk && process_.pagemap.IsHuge(chunk_number);
  huge.whole.store(whole, std::memory_order_release);
  return whole;
}

absl::Status Reclaimer::ReturnHugePages(int64_t now_ns) {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    Process::HugeSlab& huge = process_.huge_slabs[slab];
    if (!slabs_[slab].used || !huge.whole.load(std::memory_order_relaxed) ||
        huge.wanted_ns.load(std::memory_order_acquire) == 0) {
      continue;
    }
    uint64_t number = slabs_[slab].chunk_number;
    scanner_.OnHot(number, now_ns);
    if (absl::Status status = ReturnSlab(slab); !status.ok()) return status;
    // The threads that wait for it; what did not come back they find missing again.
    process_.uffd.Wake({number << kChunkShift, (number + 1) << kChunkShift});
  }
  return absl::OkStatus();
}

bool Reclaimer::Interrupted() {
  return agent_.Asked(wire::Wish::kThaw) || agent_.Asked(wire::Wish::kLeave);
}

bool Reclaimer::Forking(int64_t now_ns) const {
  int64_t last_fork_ns = process_.last_fork_ns.load(std::memory_order_relaxed);
  return last_fork_ns != 0 && now_ns - last_fork_ns < kForkingNs;
}

absl::Status Reclaimer::SettleProbations(int64_t now_ns) {
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    if (!slabs_[slab].used) continue;
    uint64_t chunk_number = slabs_[slab].chunk_number;
    std::shared_ptr<Chunk> chunk = process_.table.Find(chunk_number);
    size_t taken = slabs_[slab].pages.count();
    size_t staged = chunk == nullptr ? 0 : StillStaged(*chunk, slab).count();
    size_t wanted_back = taken - staged;
    absl::Status status;
    if (chunk != nullptr && wanted_back > HotPages(taken)) {
      scanner_.OnHot(chunk_number, now_ns);
      status = ReturnSlab(slab);
    } else if (Forking(now_ns) || now_ns - slabs_[slab].staged_ns >= options_.probation_ns) {
      if (wanted_back == 0) scanner_.OnCold(chunk_number);
      bool is_sample = !slabs_[slab].rest.empty() && !pool_full_;
      if (is_sample && !Forking(now_ns) && !Interrupted()) {
        if (budget_.Allows(now_ns)) status = TakeRest(slab, now_ns);
      } else {
        status = StoreSlab(slab, &pool_full_);
      }
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reclaimer::ReturnSlab(size_t slab) {
  Slab& record = slabs_[slab];
  absl::StatusOr<wire::PageSet> returned =
      isolator_.Return(record.chunk_number, record.pages, slab, 0);
  if (!returned.ok()) return returned.status();
  record.pages = record.pages.Without(*returned);
  record.rest = {};
  scanner_.OnReturned(record.chunk_number, *returned);
  return FreeSlabs(std::span(&slab, 1));
}

absl::Status Reclaimer::StoreStaged(bool* pool_full) {
  cold_chunks_.clear();
  for (size_t slab = 0; slab < process_.slabs(); ++slab) {
    if (!slabs_[slab].used) continue;
    if (absl::Status status = StoreSlab(slab, pool_full); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::span<const Candidate> Reclaimer::NextBatch(const std::vector<Candidate>& candidates) const {
  size_t free_slabs = static_cast<size_t>(
      std::count_if(slabs_.begin(), slabs_.begin() + static_cast<ptrdiff_t>(process_.slabs()),
                    [](const Slab& slab) { return !slab.used; }));
  size_t most = std::min({candidates.size(), wire::kMaxParts, free_slabs});
  size_t chunks = 0;
  size_t pages = 0;
  size_t runs = 0;
  while (chunks < most && pages < kBatchPages) {
    const Candidate& next = candidates[candidates.size() - 1 - chunks];
    runs += next.pages.runs();
    if (chunks > 0 && runs > kBatchRuns) break;
    pages += next.pages.count();
    ++chunks;
  }
  return std::span(candidates).last(chunks);
}

absl::StatusOr<size_t> Reclaimer::EvictBatch(std::span<const Candidate> batch, bool* pool_full) {
  std::vector<Isolator::Order> orders;
  for (size_t slab = 0; slab < process_.slabs() && orders.size() < batch.size(); ++slab) {
    if (slabs_[slab].used) continue;
    const Candidate& candidate = batch[orders.size()];
    orders.push_back({candidate.chunk_number, candidate.pages, slab, {}});
  }
  absl::Status status = Take(orders);
  std::vector<size_t> slabs;
  int64_t now_ns = clock_.now_ns();
  for (const Isolator::Order& order : orders) {
    NoteTaken(order, {}, now_ns);
    if (!order.moved.empty()) slabs.push_back(order.slab);
  }
  if (!status.ok()) return status;
  if (status = StorePages(slabs, pool_full); !status.ok()) return status;
  size_t evicted = 0;
  for (size_t slab : slabs) evicted += slabs_[slab].pages.count();
  if (status = FreeSlabs(slabs); !status.ok()) return status;
  if (process_.room_awaited.exchange(false) && options_.on_room != nullptr) options_.on_room();
  return evicted;
}

absl::StatusOr<Reclaimer::EvictResult> Reclaimer::EvictAll(const std::atomic<bool>& cancel,
                                                           const ProgressFn& progress) {
  EvictResult result;
  // What is on probation goes first.
  if (absl::Status status = StoreStaged(&result.pool_full); !status.ok()) return status;
  absl::StatusOr<Survey> survey = surveyor_.LookRegistered(Surveyor::Reach::kAll);
  if (!survey.ok()) return survey.status();
  std::vector<Candidate>& chunks = survey->chunks;
  std::reverse(chunks.begin(), chunks.end());  // the last goes first
  uint64_t total = CountPages(chunks);
  uint64_t done = 0;
  while (!cancel.load(std::memory_order_acquire) && !Interrupted() && !result.pool_full) {
    if (absl::Status status = SettleForFork(); !status.ok()) return status;
    std::span<const Candidate> batch = NextBatch(chunks);
    if (batch.empty()) break;
    absl::StatusOr<size_t> evicted = EvictBatch(batch, &result.pool_full);
    if (!evicted.ok()) return evicted.status();
    result.evicted_pages += *evicted;
    done += CountPages(batch);
    chunks.resize(chunks.size() - batch.size());
    if (progress != nullptr) progress(done, total);
  }
  result.skipped_pages = total - std::min(total, result.evicted_pages);
  return result;
}

void Reclaimer::UpdateStallBudget(int64_t now_ns) {
  ProcessCounters& counters = process_.counters;
  StallBudget::Decision decision = budget_.Update(counters.stall_ns.load(std::memory_order_relaxed),
                                                  process_.policy().stall_target_percent, now_ns);
  if (decision == StallBudget::Decision::kRaised) ++counters.rate_raises;
  if (decision == StallBudget::Decision::kCut) ++counters.rate_cuts;
  constexpr double kPpmPerPercent = 10'000;
  counters.stall_ppm.store(static_cast<uint64_t>(budget_.actual_percent() * kPpmPerPercent),
                           std::memory_order_relaxed);
  counters.rate_pages_per_s.store(static_cast<uint64_t>(budget_.pages_per_second()),
                                  std::memory_order_relaxed);
}

}  // namespace zmem
