// Answers the faults of one process: reads its userfaultfd, applies what it did to its layout, and
// puts the missing pages back. One thread runs it, pinned to wherever the program runs.
// It never waits for the agent, the disk, or a lock that is held across a system call, but for the
// gate (see process.h), which the reclaimer holds while the agent moves pages: moving never waits
// for us, so that wait is bounded by the agent's turn on a CPU.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/cpu_latency.h"
#include "libzmem/base/crew.h"
#include "libzmem/base/sys.h"
#include "libzmem/fault/coming_pages.h"
#include "libzmem/fault/cpu_follower.h"
#include "libzmem/fault/disk_reads.h"
#include "libzmem/fault/fault_pace.h"
#include "libzmem/fault/layout_events.h"
#include "libzmem/fault/page_restorer.h"
#include "libzmem/fault/prefetcher.h"
#include "libzmem/fault/readahead.h"
#include "libzmem/store/process.h"

namespace zmem {

// Told from the fault thread, with no lock held but the gate. Must be quick, and must not wait for
// the process.
class FaultObserver {
 public:
  virtual ~FaultObserver() = default;
  // `child` was forked and must be served at once: its faults wait.
  virtual void OnFork(std::shared_ptr<Process> child) = 0;
  // The program's memory cgroup is nearly full, and threads wait until some of its pages are taken
  // out. Told again and again while that lasts.
  virtual void OnRoomWanted() = 0;
  // A huge page on probation is wanted back: whoever can move it back whole should. Its threads
  // wait for a moment.
  virtual void OnHugePageWanted() = 0;
  // The address space is gone (exit, exec); nothing is served any more.
  virtual void OnGone() = 0;
};

class FaultHandler {
 public:
  // What outlives it, and it can do without.
  struct Helpers {
    Crew* crew = nullptr;               // helps where many pages come back at once
    CpuLatency* cpu_latency = nullptr;  // is held while a program gets pages back as fast as it can
  };
  // Errors: what eventfd(2) says.
  static absl::StatusOr<std::unique_ptr<FaultHandler>> Create(std::shared_ptr<Process> process,
                                                              FaultObserver& observer,
                                                              const Clock& clock,
                                                              const Helpers& helpers);

  // The thread's body: returns after Stop, or when the address space is gone.
  void Run();
  // One turn of it, for whoever serves several processes that are quiet as a rule: waits for a
  // message up to `timeout_ns` and answers what there is. False when the address space is gone.
  bool Turn(int64_t timeout_ns);
  // Whether there is nothing to do but to wait for messages.
  bool idle() const { return PollTimeoutNs() < 0 && disk_.in_flight() == 0; }

  // Makes Run return. Thread-safe.
  void Stop();
  // Puts every page back that is out, between faults; nobody must take pages out meanwhile.
  // Thread-safe.
  void RequestDrain();
  // Lets pages be taken out again. Thread-safe, but not beside RequestDrain.
  void EndDrain();
  // Has it look whether there is something new to do: the program has given advice
  // (Process::advice), or room was made (Process::room_awaited). Thread-safe.
  void Wake();
  // Every page is back. Stays true until EndDrain. Thread-safe.
  bool drained() const { return drained_.load(std::memory_order_acquire); }

 private:
  // A fault to be looked up afresh: the layout was changing, or there was no memory.
  struct Pending {
    Address page;
    bool write;
    int64_t read_ns;  // when its message was
    bool waited;      // an attempt has failed
  };
  // More than this many threads of one program wait at once only in rare storms; those beyond are
  // woken to fault again.
  static constexpr size_t kMaxPending = 128;
  static constexpr size_t kMessages = 32;
  // Pages that a proven stream gets ahead of its last fault: a millisecond's work, for nothing if
  // it ends there.
  static constexpr size_t kMostAhead = 256;

  FaultHandler(std::shared_ptr<Process> process, FaultObserver& observer, const Clock& clock,
               const Helpers& helpers, UniqueFd wake_fd);

  int64_t PollTimeoutNs() const;
  bool LookOut();
  void FollowPace();
  // Whether there were any.
  bool ServeMessages() ABSL_EXCLUSIVE_LOCKS_REQUIRED(process_->gate);
  void ApplyEvent(const uffd_msg& message);
  void HandleFault(const uffd_msg& message, int64_t read_ns);
  void HandlePending();
  void SettleArrivals();
  // One attempt at bringing a page back; false if it has to be tried again.
  bool Answer(const Pending& fault);
  void CountWait(const Pending& fault);
  bool AnswerFromDisk(Address page);
  bool AnswerWithZeros(Address page, bool write);
  void FillZerosAhead(Address page, bool write);
  size_t FreeRun(Address first, size_t limit);
  void FindAbsent(Address first, std::span<bool> absent);
  size_t AbsentRun(Address first, size_t limit);
  void EndQuarantine(Address first, size_t pages);
  bool AnswerWithToken(Address page);
  bool Settle(FillResult result, Address page);
  // Whether the program's memory cgroup takes another page, and its resident limit allows one. Not
  // while room is made, but for so long only: then whoever waits gets the page that an unmanaged
  // program would have had.
  bool HaveRoom();
  bool AwaitRoom();
  // Whether what nobody has asked for had better not come.
  bool IsRoomScarce() const;
  // Whether `entry` is of a huge page that should come back whole, and still may.
  bool AwaitHugePage(PageEntry entry);
  size_t Ahead(Readahead& streams, Address page) const;
  // The same for stored pages. What a stream has passed is noted.
  size_t StoredAhead(Address page);
  void NotePassed();
  void ReadAhead(Address page);
  void GoOnAhead(Address page);
  // Brings a slice of what is coming.
  void BringSlice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(process_->gate);
  void DrainSlice();
  // The next page from the drain's cursor on that is out; false at the end of a pass.
  bool NextToDrain(Address* page);
  void DropPresent(Address page);

  const std::shared_ptr<Process> process_;
  FaultObserver& observer_;
  const Clock& clock_;
  Crew* const crew_;
  CpuLatency* const cpu_latency_;
  UniqueFd wake_fd_;
  // Given up when the table is full, so that a FORK event can still be read (FACTS 4).
  UniqueFd reserve_fd_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> draining_{false};
  std::atomic<bool> drained_{false};

  PageRestorer restorer_;
  DiskReads disk_;
  LayoutEvents events_;
  Prefetcher prefetcher_;
  Readahead readahead_{kMostAhead};  // of stored pages
  ComingPages coming_;               // what readahead_ has asked for and is not there yet
  Readahead zero_ahead_{PageRestorer::kSlicePages};  // of pages never touched
  CpuFollower follower_;
  FaultPace pace_;
  LoneFaulter faulter_;
  CpuLatency::Hold hold_;  // while pace_ is fast, and there is room
  LookCredit look_credit_;
  std::array<uffd_msg, kMessages> messages_;
  std::array<Pending, kMaxPending> pending_;
  size_t pending_count_ = 0;
  int64_t short_of_room_ns_ = 0;  // since when, or since the last page went out; 0: there is room
  int64_t taken_when_short_ = 0;
  bool heard_ = false;        // something, in the last turn
  int fruitless_rounds_ = 0;  // since a pending fault, a drain or advice last got on

  std::vector<uint64_t> drain_chunks_;
  size_t drain_chunk_ = 0;
  size_t drain_page_ = 0;
};

}  // namespace zmem
