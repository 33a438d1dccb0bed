#include "libzmem/fault/fault_handler.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace zmem {
namespace {

// Never written, so that it takes no memory.
alignas(kPageBytes) std::byte zero_pages[PageRestorer::kSlicePages * kPageBytes];

// Rounds tried at once before a pause: a changing layout settles within microseconds as a rule.
// Nothing tells when it has: its changer, which may be the agent, has to run once more. So pauses
// begin short, and double after so many.
constexpr int kEagerRounds = 4;
constexpr int kRoundsAPause = 4;
constexpr int64_t kShortestPauseNs = 20'000;
constexpr int64_t kLongestPauseNs = 1'000'000;
// Rounds after which pauses are as long as they get.
constexpr int kPatientRounds = 32;

constexpr int64_t PauseNs(int fruitless_rounds) {
  if (fruitless_rounds < kEagerRounds) return 0;
  if (fruitless_rounds >= kPatientRounds) return kLongestPauseNs;
  return std::min(kShortestPauseNs << ((fruitless_rounds - kEagerRounds) / kRoundsAPause),
                  kLongestPauseNs);
}
static_assert(PauseNs(kPatientRounds - 1) == kLongestPauseNs);

// Rounds of a drain without any progress after which what cannot be filled is given up: nothing is
// mapped there any more, or its unmapping would have been told (a millisecond each).
constexpr int kDrainPatience = 2000;
// Room for what nobody has asked for: more than what is made at once.
constexpr int64_t kAmpleRoomPages = 8192;
// How long a fault waits for room while no page goes out.
constexpr int64_t kRoomPatienceNs = 2'000'000'000;
// How long until it looks for room that nobody has told it of.
constexpr int64_t kRoomLookNs = 5'000'000;
// What is brought between two looks for faults of what nobody waits for; and where no thread faults
// but the one that it is for.
constexpr size_t kSlicePages = PageRestorer::kSlicePages;
constexpr size_t kLongSlicePages = PageRestorer::kBufferPages;
// What a read from the disk brings back with a page that is waited for, if it lies beside it there:
// the read takes hardly longer for it.
constexpr size_t kDiskNeighbours = 7;
// Without a message for so long, a thread gives up its buffer.
constexpr int64_t kIdleNs = 10'000'000'000;
// How long to look out for the next message before sleeping, where that is cheap: a program that
// does little else faults again within 3 µs.
constexpr int64_t kLookNs = 5'000;
// How long for a huge page to come back whole before it is taken apart.
constexpr int64_t kHugePatienceNs = 2'000'000;

}  // namespace

absl::StatusOr<std::unique_ptr<FaultHandler>> FaultHandler::Create(std::shared_ptr<Process> process,
                                                                   FaultObserver& observer,
                                                                   const Clock& clock,
                                                                   const Helpers& helpers) {
  UniqueFd wake_fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_fd.valid()) return sys::ErrnoStatus(errno, "cannot create an eventfd");
  return std::unique_ptr<FaultHandler>(
      new FaultHandler(std::move(process), observer, clock, helpers, std::move(wake_fd)));
}

FaultHandler::FaultHandler(std::shared_ptr<Process> process, FaultObserver& observer,
                           const Clock& clock, const Helpers& helpers, UniqueFd wake_fd)
    : process_(std::move(process)),
      observer_(observer),
      clock_(clock),
      crew_(helpers.crew),
      cpu_latency_(helpers.cpu_latency),
      wake_fd_(std::move(wake_fd)),
      restorer_(*process_),
      disk_(*process_, restorer_, clock),
      events_(*process_, restorer_, disk_),
      prefetcher_(*process_, restorer_, disk_) {}

void FaultHandler::Stop() {
  stop_.store(true, std::memory_order_release);
  eventfd_write(wake_fd_.get(), 1);
}

void FaultHandler::RequestDrain() {
  process_->clean_pages.set_enabled(false);  // it is not to go out again
  process_->is_limit_lifted.store(true, std::memory_order_relaxed);
  draining_.store(true, std::memory_order_release);
  eventfd_write(wake_fd_.get(), 1);
}

void FaultHandler::EndDrain() {
  process_->clean_pages.set_enabled(true);
  process_->is_limit_lifted.store(false, std::memory_order_relaxed);
  process_->RefreshRoom();
  draining_.store(false, std::memory_order_release);
  drained_.store(false, std::memory_order_release);
}

void FaultHandler::Wake() { eventfd_write(wake_fd_.get(), 1); }

int64_t FaultHandler::PollTimeoutNs() const {
  bool work = pending_count_ > 0 || !process_->arrivals.empty() || prefetcher_.pending() ||
              (draining_.load(std::memory_order_acquire) && !drained());
  if (!coming_.empty()) return 0;
  if (!work) return -1;
  if (short_of_room_ns_ != 0) return kRoomLookNs;
  return PauseNs(fruitless_rounds_);
}

void FaultHandler::Run() {
  while (!stop_.load(std::memory_order_acquire)) {
    int64_t timeout_ns = PollTimeoutNs();
    bool is_idle = timeout_ns < 0 && (PageRestorer::has_buffer() || hold_.valid());
    if (is_idle) timeout_ns = hold_.valid() ? FaultPace::kQuietNs : kIdleNs;
    if (!Turn(timeout_ns)) break;
    if (is_idle && !heard_ && !hold_.valid()) PageRestorer::ReleaseBuffer();
    FollowPace();
  }
  hold_ = CpuLatency::Hold();
}

// A program with room for its pages that gets them back as fast as it can is waiting
// for CPUs to wake up most of the time, and only for as long as there are pages of it. Where room
// is scarce there is no end to it, and the CPUs have pages to compress.
void FaultHandler::FollowPace() {
  // It takes more to begin than to go on, as room comes and goes.
  int64_t enough_pages = hold_.valid() ? kAmpleRoomPages : 2 * kAmpleRoomPages;
  bool wanted = cpu_latency_ != nullptr && pace_.IsFast(clock_.now_ns()) &&
                process_->room_pages.load(std::memory_order_relaxed) > enough_pages;
  if (wanted == hold_.valid()) return;
  hold_ = wanted ? cpu_latency_->Begin() : CpuLatency::Hold();
  if (wanted == hold_.valid()) follower_.set_beside(wanted);
}

// Serves the messages that come within a moment, if that is worth it now. Reading them takes the
// gate, and whoever waits for that gets it next.
bool FaultHandler::LookOut() {
  if (!hold_.valid() || !look_credit_.Take()) return false;
  int64_t until_ns = clock_.now_ns() + kLookNs;
  GateLock lock(process_->gate);
  bool found;
  do {
    found = ServeMessages();
  } while (!found && clock_.now_ns() < until_ns);
  look_credit_.OnLook(found);
  return found;
}

bool FaultHandler::Turn(int64_t timeout_ns) {
  // A descriptor of -1 is passed over.
  pollfd fds[3] = {
      {process_->uffd.fd(), POLLIN, 0}, {wake_fd_.get(), POLLIN, 0}, {disk_.fd(), POLLIN, 0}};
  bool has_served = timeout_ns != 0 && LookOut();
  heard_ = has_served || sys::PollNs(fds, 3, timeout_ns) != 0;
  if ((fds[1].revents & POLLIN) != 0) {
    eventfd_t ignored;
    eventfd_read(wake_fd_.get(), &ignored);
  }
  if ((fds[0].revents & POLLERR) != 0) {
    // The descriptor's flags are shared with the program, which has made it blocking.
    fcntl(process_->uffd.fd(), F_SETFL, O_NONBLOCK);
  }
  GateLock lock(process_->gate);
  if (fds[0].revents != 0) ServeMessages();
  if (!process_->arrivals.empty()) SettleArrivals();
  if (pending_count_ > 0) HandlePending();
  if (!coming_.empty()) BringSlice();
  if (draining_.load(std::memory_order_acquire) && !drained()) {
    DrainSlice();
  } else if (prefetcher_.pending()) {
    fruitless_rounds_ = prefetcher_.Slice(crew_) ? 0 : fruitless_rounds_ + 1;
  }
  // Last: what was begun above may have been in memory.
  if (disk_.in_flight() > 0 && disk_.Complete() == FillResult::kGone) {
    process_->gone.store(true, std::memory_order_release);
  }
  if (!process_->gone.load(std::memory_order_acquire)) return true;
  observer_.OnGone();
  return false;
}

bool FaultHandler::ServeMessages() {
  int count = process_->uffd.Read(messages_);
  if (count == -EMFILE && reserve_fd_.valid()) {
    reserve_fd_.reset();
    count = process_->uffd.Read(messages_);
  }
  if (!reserve_fd_.valid()) reserve_fd_.reset(fcntl(wake_fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (count <= 0) return false;
  int64_t read_ns = clock_.now_ns();
  std::span<const uffd_msg> messages(messages_.data(), static_cast<size_t>(count));
  // read() hands out faults before older events; an event that was read must be applied before a
  // fault is looked up, or the fault would bring back what the program has just dropped.
  for (const uffd_msg& message : messages) {
    if (message.event != UFFD_EVENT_PAGEFAULT) ApplyEvent(message);
  }
  for (const uffd_msg& message : messages) {
    if (message.event == UFFD_EVENT_PAGEFAULT) HandleFault(message, read_ns);
  }
  return true;
}

void FaultHandler::ApplyEvent(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_FORK:
      process_->last_fork_ns.store(clock_.now_ns(), std::memory_order_relaxed);
      observer_.OnFork(events_.OnFork(UniqueFd(static_cast<int>(message.arg.fork.ufd))));
      return;
    case UFFD_EVENT_REMAP:
      events_.OnRemap(message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
      return;
    case UFFD_EVENT_REMOVE:
      events_.OnRemove({message.arg.remove.start, message.arg.remove.end}, clock_.now_ns());
      return;
    case UFFD_EVENT_UNMAP:
      events_.OnUnmap({message.arg.remove.start, message.arg.remove.end});
      return;
    default:
      return;  // an event of a feature that was not asked for
  }
}

void FaultHandler::HandleFault(const uffd_msg& message, int64_t read_ns) {
  Address page = PageStart(message.arg.pagefault.address);
  bool write = (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
  Pending fault{page, write, read_ns, false};
  auto thread = static_cast<pid_t>(message.arg.pagefault.feat.ptid);
  faulter_.OnFault(thread);
  uint64_t served = process_->counters.faults_total.load(std::memory_order_relaxed);
  if (Answer(fault)) {
    if (process_->counters.faults_total.load(std::memory_order_relaxed) != served) {
      pace_.OnFault(read_ns);
      ReadAhead(page);
    } else {
      GoOnAhead(page);
    }
    // Also while the page is on its way from the disk: its program sleeps on that CPU.
    if (process_->bound.load(std::memory_order_acquire)) {
      follower_.OnFault(process_->pid, thread, read_ns);
    }
    return;
  }
  if (pending_count_ < kMaxPending) {
    fault.waited = true;
    pending_[pending_count_++] = fault;
  } else {
    process_->uffd.Wake({page, page + kPageBytes});
  }
}

void FaultHandler::SettleArrivals() {
  // A slice between faults, which must not wait for all of a large mapping.
  constexpr size_t kSlicePages = 256;
  fruitless_rounds_ = events_.SettleArrivals(kSlicePages) ? 0 : fruitless_rounds_ + 1;
}

void FaultHandler::HandlePending() {
  if (short_of_room_ns_ != 0 && !HaveRoom()) return;  // what goes for one goes for all
  size_t before = pending_count_;
  size_t kept = 0;
  for (size_t i = 0; i < before; ++i) {
    if (!Answer(pending_[i])) pending_[kept++] = pending_[i];
  }
  pending_count_ = kept;
  fruitless_rounds_ = kept < before ? 0 : fruitless_rounds_ + 1;
}

bool FaultHandler::HaveRoom() {
  int64_t room = process_->room_pages.load(std::memory_order_relaxed);
  if (room <= Process::kLittleRoomPages) return AwaitRoom();
  // Asked for before it is used up.
  if (room <= Process::kLowRoomPages) observer_.OnRoomWanted();
  short_of_room_ns_ = 0;
  return true;
}

bool FaultHandler::IsRoomScarce() const {
  return process_->room_pages.load(std::memory_order_relaxed) <= kAmpleRoomPages;
}

bool FaultHandler::AwaitRoom() {
  // Whoever makes some after this look sees that it is awaited.
  process_->room_awaited.store(true);
  if (process_->RefreshRoom() > Process::kLittleRoomPages) {
    process_->room_awaited.store(false);
    short_of_room_ns_ = 0;
    return true;
  }
  int64_t now_ns = clock_.now_ns();
  // A limit that cannot be held is not worth a program's standing still.
  bool is_limit = process_->limit_is_nearest.load(std::memory_order_relaxed);
  if (is_limit && process_->nothing_to_take.load(std::memory_order_relaxed)) {
    observer_.OnRoomWanted();
    return true;
  }
  int64_t taken = process_->counters.taken_pages();
  if (short_of_room_ns_ == 0 || taken > taken_when_short_) {
    short_of_room_ns_ = now_ns;
    taken_when_short_ = taken;
  }
  observer_.OnRoomWanted();
  return now_ns - short_of_room_ns_ > kRoomPatienceNs;
}

// A first touch that had to wait: for room, as a rule.
void FaultHandler::CountWait(const Pending& fault) {
  process_->counters.stall_ns.fetch_add(
      static_cast<uint64_t>(clock_.now_ns() - fault.read_ns) + ProcessCounters::kWakeUpNs,
      std::memory_order_relaxed);
}

bool FaultHandler::AwaitHugePage(PageEntry entry) {
  if (entry.state() != PageState::kStaged) return false;
  Process::HugeSlab& slab = process_->huge_slabs[entry.slot() / kPagesPerChunk];
  if (!slab.whole.load(std::memory_order_acquire)) return false;
  int64_t now_ns = clock_.now_ns();
  int64_t since_ns = slab.wanted_ns.load(std::memory_order_relaxed);
  if (since_ns == 0) {
    slab.wanted_ns.store(now_ns, std::memory_order_release);
    observer_.OnHugePageWanted();
    return true;
  }
  return now_ns - since_ns < kHugePatienceNs;
}

bool FaultHandler::Answer(const Pending& fault) {
  Address page = fault.page;
  if (page == process_->token_page) return AnswerWithToken(page);
  if (fault.write && process_->staging.Contains(page)) {
    // Nobody writes there but the kernel, for a program that locks all its memory (mlockall). It
    // would fill the whole area; an error makes it pass on.
    return Settle(process_->uffd.Poison(page), page);
  }
  if (!HaveRoom()) return false;
  std::shared_ptr<Chunk> chunk = process_->table.Find(ChunkNumber(page));
  PageEntry entry = chunk == nullptr ? PageEntry() : chunk->Load(PageInChunk(page));
  PageState state = entry.state();
  if (state == PageState::kResident) {
    if (!AnswerWithZeros(page, fault.write)) return false;
    if (fault.waited) CountWait(fault);
    return true;
  }
  if (AwaitHugePage(entry)) return false;
  if (state == PageState::kOnDisk) return AnswerFromDisk(page);
  if (state == PageState::kLost) {
    std::shared_ptr<Chunk> own = process_->OwnChunk(page);
    return own != nullptr && Settle(restorer_.Poison(*own, page), page);
  }
  PageAges::Age gone = chunk->ages.Get(PageInChunk(page));
  size_t restored = 0;
  FillResult result = restorer_.RestoreRun(page, 1, &restored);
  process_->TakeRoom(restored);
  if (restored > 0) {
    int64_t now_ns = clock_.now_ns();
    process_->CountFault(*chunk, PageInChunk(page), entry, gone, now_ns, now_ns - fault.read_ns);
  }
  // It was staged and has just been published, in the backing file: looked up afresh.
  if (restored == 0 && result == FillResult::kDone) return false;
  return Settle(result, page);
}

bool FaultHandler::AnswerFromDisk(Address page) {
  if (disk_.full()) return false;
  uint64_t number = page >> kPageShift;
  size_t window = StoredAhead(page);
  size_t neighbours = window;
  // Each would push another page out again where room is scarce.
  if (!IsRoomScarce()) neighbours = std::max(neighbours, kDiskNeighbours);
  if (short_of_room_ns_ != 0) neighbours = 0;
  auto reason = window > 0 ? DiskReads::Reason::kStream : DiskReads::Reason::kFault;
  std::optional<size_t> behind = disk_.Begin(page, neighbours, reason);
  if (behind) readahead_.Brought(number, *behind);
  return behind.has_value();
}

bool FaultHandler::Settle(FillResult result, Address page) {
  AddressRange range{page, page + kPageBytes};
  switch (result) {
    case FillResult::kDone:
    case FillResult::kPresent:  // its waiters were woken
      return true;
    case FillResult::kChanging:
    case FillResult::kNoMemory:
      return false;
    case FillResult::kAbsent:
      // Unmapped, or a mapping of another kind by now: whoever waits finds out by faulting again.
      process_->uffd.Wake(range);
      return true;
    case FillResult::kGone:
      process_->gone.store(true, std::memory_order_release);
      return true;
    case FillResult::kFailed:
      return false;  // late is better than wrong
  }
  return false;
}

// A page that we do not have: a first touch, or one that the program has dropped.
bool FaultHandler::AnswerWithZeros(Address page, bool write) {
  size_t filled = 0;
  FillResult result = write ? process_->uffd.Copy(page, zero_pages, 1, &filled)
                            : process_->uffd.Zero(page, 1, &filled);
  if (result == FillResult::kPresent) process_->uffd.Wake({page, page + kPageBytes});
  if (result != FillResult::kDone) return Settle(result, page);
  process_->counters.zero_faults.fetch_add(1, std::memory_order_relaxed);
  if (write) process_->TakeRoom(1);
  // The fault shows that what was to be dropped is gone.
  EndQuarantine(page, 1);
  FillZerosAhead(page, write);
  return true;
}

// Whoever writes page after page gets pages of its own ahead; anybody else gets the kernel's zero
// page, which costs no memory, for the absent run behind.
void FaultHandler::FillZerosAhead(Address page, bool write) {
  Address first = page + kPageBytes;
  size_t free = FreeRun(first, kPagesPerChunk - 1 - PageInChunk(page));
  size_t window = write ? std::min(Ahead(zero_ahead_, page), free) : 0;
  if (short_of_room_ns_ != 0) window = 0;
  // Waiters stay asleep: their messages are still to come.
  size_t filled = 0;
  if (window > 0) {
    window = AbsentRun(first, window);
    if (window > 0) process_->uffd.Copy(first, zero_pages, window, &filled);
    process_->TakeRoom(filled);
    zero_ahead_.Brought(page >> kPageShift, filled);
  } else if (free > 0) {
    // Stops at the first page that is there.
    process_->uffd.Zero(first, free, &filled, Userfaultfd::Waiters::kLeave);
    if (write) zero_ahead_.Start((first >> kPageShift) + filled);
  }
  EndQuarantine(first, filled);
}

// How many of the `limit` pages from `first` on, which lie in one chunk, are not with us.
size_t FaultHandler::FreeRun(Address first, size_t limit) {
  std::shared_ptr<Chunk> chunk = process_->table.Find(ChunkNumber(first));
  if (chunk == nullptr) return limit;
  size_t run = 0;
  while (run < limit && chunk->Load(PageInChunk(first) + run).state() == PageState::kResident) {
    ++run;
  }
  return run;
}

// Which of the pages from `first` on, in one chunk, are absent: as many as `absent` has places.
// Filling one that nobody waits for would undo a guard put there (FACTS 11).
void FaultHandler::FindAbsent(Address first, std::span<bool> absent) {
  if (!process_->bound.load(std::memory_order_acquire)) {
    std::fill(absent.begin(), absent.end(), true);
  } else if (process_->pagemap.FindAbsent(first, absent) != 0) {
    std::fill(absent.begin(), absent.end(), false);
  }
}

// How many of the `limit` pages from `first` on are.
size_t FaultHandler::AbsentRun(Address first, size_t limit) {
  std::array<bool, kSlicePages> places;
  std::span<bool> absent = std::span(places).first(limit);
  FindAbsent(first, absent);
  return static_cast<size_t>(std::find(absent.begin(), absent.end(), false) - absent.begin());
}

// For pages that were absent and have been filled: no old bytes are in them.
void FaultHandler::EndQuarantine(Address first, size_t pages) {
  std::shared_ptr<Chunk> chunk;
  for (size_t i = 0; i < pages; ++i) {
    Address page = first + i * kPageBytes;
    if (chunk == nullptr) chunk = process_->table.Find(ChunkNumber(page));
    if (chunk == nullptr) return;
    PageEntry entry = chunk->Load(PageInChunk(page));
    if (entry == PageEntry() || entry.state() != PageState::kResident) continue;
    chunk = process_->OwnChunk(page);
    if (chunk != nullptr) chunk->Transition(PageInChunk(page), entry, PageEntry());
  }
}

bool FaultHandler::AnswerWithToken(Address page) {
  FillResult result = process_->FillTokenPage();
  if (result == FillResult::kPresent) process_->uffd.Wake({page, page + kPageBytes});
  return Settle(result, page);
}

// How many pages to bring behind `page` in a stream of faults. Where room is scarce each pushes
// another page out, so that a stream has to be one: two pages that follow each other are not yet.
size_t FaultHandler::Ahead(Readahead& streams, Address page) const {
  constexpr size_t kProvenWindow = 16;
  uint64_t number = page >> kPageShift;
  size_t window = streams.OnFault(number);
  if (window == 0 || !IsRoomScarce() || window >= kProvenWindow) return window;
  streams.Brought(number, 0);
  return 0;
}

size_t FaultHandler::StoredAhead(Address page) {
  size_t window = Ahead(readahead_, page);
  if (window > 0) NotePassed();
  return window;
}

void FaultHandler::NotePassed() {
  if (!IsRoomScarce()) return;
  Readahead::Pages passed = readahead_.passed();
  process_->passed.Add({passed.first << kPageShift, passed.end << kPageShift}, clock_.now_ns());
}

void FaultHandler::ReadAhead(Address page) {
  if (coming_.OnFault(page)) return;
  size_t window = StoredAhead(page);
  if (short_of_room_ns_ != 0) return;
  Address first = page + kPageBytes;
  coming_.Add({first, first + window * kPageBytes});
}

// A thread has come to `page` just when that was there: a stream that has come so far goes on.
void FaultHandler::GoOnAhead(Address page) {
  if (short_of_room_ns_ != 0) return;
  Readahead::Pages more = readahead_.OnReached(page >> kPageShift);
  if (more.first == more.end) return;
  NotePassed();
  coming_.Add({more.first << kPageShift, more.end << kPageShift});
}

void FaultHandler::BringSlice() {
  if (short_of_room_ns_ != 0 ||
      process_->room_pages.load(std::memory_order_relaxed) <= Process::kLittleRoomPages) {
    return coming_.Clear();
  }
  AddressRange slice = coming_.Take(faulter_.is_alone() ? kLongSlicePages : kSlicePages);
  std::array<bool, kLongSlicePages> places;
  std::span<bool> absent = std::span(places).first(slice.pages());
  FindAbsent(slice.start, absent);
  size_t in_all = 0;
  for (auto at = absent.begin(); (at = std::find(at, absent.end(), true)) != absent.end();) {
    auto end = std::find(at, absent.end(), false);
    Address first = slice.start + static_cast<size_t>(at - absent.begin()) * kPageBytes;
    size_t restored = 0;
    FillResult result =
        restorer_.RestoreStream(first, static_cast<size_t>(end - at), crew_, &restored);
    in_all += restored;
    if (result != FillResult::kDone && result != FillResult::kPresent) break;
    // The next is not to be had in this way: never touched, or on disk.
    at += static_cast<ptrdiff_t>(std::min(restored + 1, static_cast<size_t>(end - at)));
  }
  process_->TakeRoom(in_all);
  process_->counters.readahead_pages.fetch_add(in_all, std::memory_order_relaxed);
  pace_.OnStream(in_all, clock_.now_ns());
  // Now that nothing is being filled: who waits for these pages shows how far the stream has come.
  ServeMessages();
  process_->uffd.Wake(slice);
}

bool FaultHandler::NextToDrain(Address* page) {
  while (drain_chunk_ < drain_chunks_.size()) {
    uint64_t number = drain_chunks_[drain_chunk_];
    std::shared_ptr<Chunk> chunk = process_->table.Find(number);
    for (; chunk != nullptr && drain_page_ < kPagesPerChunk; ++drain_page_) {
      PageEntry entry = chunk->Load(drain_page_);
      if (entry.state() == PageState::kResident) continue;
      bool on_its_way = entry.state() == PageState::kOnDisk && entry.Has(PageEntry::kRestoring);
      if (on_its_way) continue;
      *page = (number << kChunkShift) + drain_page_ * kPageBytes;
      return true;
    }
    ++drain_chunk_;
    drain_page_ = 0;
  }
  return false;
}

void FaultHandler::DrainSlice() {
  Address page = 0;
  if (!NextToDrain(&page)) {
    // The end of a pass. Only one that is begun and ended here without finding anything is the
    // proof: between two calls a mapping may move to where the last pass had looked already.
    drain_chunks_ = process_->table.Numbers();
    drain_chunk_ = 0;
    drain_page_ = 0;
    if (!NextToDrain(&page)) {
      if (disk_.in_flight() == 0) drained_.store(true, std::memory_order_release);
      fruitless_rounds_ = kPatientRounds;  // what is left comes from the disk
      return;
    }
  }
  if (process_->room_pages.load(std::memory_order_relaxed) <= Process::kLittleRoomPages &&
      process_->RefreshRoom() <= Process::kLittleRoomPages) {
    fruitless_rounds_ = kPatientRounds;  // the program would be killed for it (FACTS 23)
    return;
  }
  std::shared_ptr<Chunk> chunk = process_->OwnChunk(page);
  if (chunk != nullptr && chunk->Load(drain_page_).state() == PageState::kLost) {
    // Once nobody serves it, it would read as zeros.
    if (restorer_.Poison(*chunk, page) == FillResult::kPresent) DropPresent(page);
    return;
  }
  if (chunk != nullptr && chunk->Load(drain_page_).state() == PageState::kOnDisk) {
    auto begun = disk_.Begin(page, DiskReads::kMaxPages - 1, DiskReads::Reason::kDrain);
    // What does not come with this read is looked at again in the next pass.
    if (begun) drain_page_ += 1 + *begun;
    fruitless_rounds_ = begun ? 0 : kPatientRounds;
    return;
  }
  size_t pages = std::min(kSlicePages, kPagesPerChunk - drain_page_);
  if (process_->bound.load(std::memory_order_acquire)) {
    std::array<bool, kSlicePages> absent;
    if (process_->pagemap.FindAbsent(page, std::span(absent).first(pages)) == 0) {
      if (!absent[0]) return DropPresent(page);
      pages = static_cast<size_t>(
          std::find(absent.begin(), absent.begin() + static_cast<ptrdiff_t>(pages), false) -
          absent.begin());
    }
  }
  size_t restored = 0;
  FillResult result = restorer_.RestoreStream(page, pages, crew_, &restored);
  process_->uffd.Wake({page, page + pages * kPageBytes});
  process_->TakeRoom(restored);
  fruitless_rounds_ = restored > 0 || result == FillResult::kDone ? 0 : fruitless_rounds_ + 1;
  if (result == FillResult::kGone) process_->gone.store(true, std::memory_order_release);
  if (result == FillResult::kAbsent && fruitless_rounds_ > kDrainPatience) DropPresent(page);
}

// The program's own page, or its guard, is in the place of `page`: what we have is out of date.
void FaultHandler::DropPresent(Address page) {
  std::shared_ptr<Chunk> chunk = process_->OwnChunk(page);
  if (chunk != nullptr) process_->Retire(chunk->Replace(PageInChunk(page), PageEntry()));
}

}  // namespace zmem
