#include "bench/bare_squeeze.h"

#include <lz4.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "bench/bare_calls.h"
#include "bench/shared_array.h"
#include "libzmem/base/kernel_abi.h"
#include "libzmem/base/page.h"
#include "libzmem/base/sys.h"
#include "libzmem/uffd/remote_memory.h"

namespace zmem {
namespace {

// Small, as whoever wants a page that is on its way out waits for the whole batch.
constexpr uint32_t kBatchPages = 64;
// Room is made when less than this is left.
constexpr int64_t kHeadroomPages = 2 * kBatchPages;
// A page's state: in memory, on its way out, or the size of its stored form.
constexpr uint16_t kResident = 0;
constexpr uint16_t kMoving = 0xffff;

// What program and handler share.
struct Shared {
  std::atomic<int64_t> room;     // pages that may come in
  std::atomic<uint64_t> filled;  // pages that came back, which queue[filled % pages] names
  std::atomic<bool> mover_sleeps;
  std::atomic<bool> ends;
  std::array<uint32_t, kBatchPages> batch;  // pages that are staged
  uint32_t batch_pages;
};

void Signal(int eventfd) { eventfd_write(eventfd, 1); }
void Await(int eventfd) {
  eventfd_t ignored;
  eventfd_read(eventfd, &ignored);
}

}  // namespace

class BareSqueeze::Impl {
 public:
  Impl(std::byte* data, uint32_t pages, uint32_t most_resident)
      : data_(data),
        pages_(pages),
        shared_(*SharedArray<Shared>(1)),
        states_(SharedArray<std::atomic<uint16_t>>(pages)),
        queue_(SharedArray<uint32_t>(pages)),
        forms_(SharedArray<Form>(pages)),
        program_(getpid()),
        uffd_(OpenUserfaultfd(true)),
        mover_wanted_(eventfd(0, EFD_CLOEXEC)),
        staged_(eventfd(0, EFD_CLOEXEC)),
        stored_(eventfd(0, EFD_CLOEXEC)) {
    shared_.room = int64_t{most_resident} - pages;
    for (uint32_t page = 0; page < pages; ++page) queue_[page] = page;
    shared_.filled = pages;
    void* staging = mmap(nullptr, kBatchPages * kPageBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (staging == MAP_FAILED) Fail("mmap");
    staging_ = static_cast<std::byte*>(staging);
    // The handler has no use for them, and pages of two processes cannot be moved.
    madvise(data_, pages_ * kPageBytes, MADV_DONTFORK);
    handler_.emplace([this] {
      std::thread evictor([this] { Evict(); });
      Serve();
    });
    madvise(data_, pages_ * kPageBytes, MADV_DOFORK);
    Register(uffd_.get(), data_, pages_ * kPageBytes);
    Register(uffd_.get(), staging_, kBatchPages * kPageBytes);
    mover_ = std::thread([this] { Move(); });
    Pin(0);
    while (shared_.room < 0) sched_yield();
  }

  ~Impl() {
    shared_.ends = true;
    Signal(mover_wanted_.get());
    mover_.join();
    munmap(staging_, kBatchPages * kPageBytes);
  }

 private:
  using Form = std::array<char, kPageBytes>;

  // The handler.
  void Serve() {
    Pin(0);
    std::array<uffd_msg, 32> messages;
    while (true) {
      ssize_t got = read(uffd_.get(), messages.data(), sizeof messages);
      for (ssize_t at = 0; at < got / static_cast<ssize_t>(sizeof(uffd_msg)); ++at) {
        Address address = messages[static_cast<size_t>(at)].arg.pagefault.address;
        Fill(static_cast<uint32_t>((address - reinterpret_cast<Address>(data_)) >> kPageShift));
      }
    }
  }

  void Fill(uint32_t page) {
    while (states_[page] == kMoving || shared_.room <= 0) sched_yield();
    uint16_t bytes = states_[page];
    if (bytes == kResident) return;
    LZ4_decompress_safe(forms_[page].data(), reinterpret_cast<char*>(buffer_.data()), bytes,
                        kPageBytes);
    states_[page] = kResident;
    CopyPages(uffd_.get(), data_ + page * kPageBytes, buffer_.data(), 1);
    queue_[shared_.filled.load(std::memory_order_relaxed) % pages_] = page;
    ++shared_.filled;
    --shared_.room;
    if (shared_.room < kHeadroomPages && shared_.mover_sleeps.exchange(false)) {
      Signal(mover_wanted_.get());
    }
  }

  // A thread of the program.
  void Move() {
    Pin(1);
    uint64_t taken = 0;
    while (!shared_.ends) {
      shared_.mover_sleeps = true;
      if (shared_.room >= kHeadroomPages) {
        Await(mover_wanted_.get());
        continue;
      }
      shared_.mover_sleeps = false;
      uint32_t count = 0;
      for (; count < kBatchPages && taken < shared_.filled; ++taken) {
        uint32_t page = queue_[taken % pages_];
        states_[page] = kMoving;
        uffdio_move move{};
        move.dst = reinterpret_cast<uint64_t>(staging_ + count * kPageBytes);
        move.src = reinterpret_cast<uint64_t>(data_ + page * kPageBytes);
        move.len = kPageBytes;
        while (ioctl(uffd_.get(), UFFDIO_MOVE, &move) != 0) {
          if (errno != EAGAIN) Fail("UFFDIO_MOVE");
        }
        shared_.batch[count++] = page;
      }
      shared_.batch_pages = count;
      Signal(staged_.get());
      Await(stored_.get());
      madvise(staging_, kBatchPages * kPageBytes, MADV_DONTNEED);
      shared_.room += count;
    }
  }

  // A thread of the handler.
  void Evict() {
    Pin(1);
    absl::StatusOr<RemoteMemory> memory = RemoteMemory::Open(program_);
    if (!memory.ok()) Fail("/proc/PID/mem");
    std::vector<std::byte> bytes(kBatchPages * kPageBytes);
    char form[LZ4_COMPRESSBOUND(kPageBytes)];
    while (true) {
      Await(staged_.get());
      auto staged = reinterpret_cast<Address>(staging_);
      if (!memory->Read(staged, bytes.data(), shared_.batch_pages * kPageBytes)) {
        Fail("staged pages");
      }
      for (uint32_t at = 0; at < shared_.batch_pages; ++at) {
        uint32_t page = shared_.batch[at];
        int size = LZ4_compress_default(reinterpret_cast<char*>(&bytes[at * kPageBytes]), form,
                                        kPageBytes, sizeof form);
        if (size <= 0 || size > static_cast<int>(kPageBytes)) Fail("LZ4");
        std::memcpy(forms_[page].data(), form, static_cast<size_t>(size));
        states_[page] = static_cast<uint16_t>(size);
      }
      Signal(stored_.get());
    }
  }

  std::byte* const data_;
  const uint32_t pages_;
  Shared& shared_;
  std::atomic<uint16_t>* const states_;
  uint32_t* const queue_;
  Form* const forms_;
  const pid_t program_;
  UniqueFd uffd_;
  UniqueFd mover_wanted_;
  UniqueFd staged_;
  UniqueFd stored_;
  std::byte* staging_ = nullptr;
  alignas(kPageBytes) std::array<std::byte, kPageBytes> buffer_;
  std::optional<Forked> handler_;
  std::thread mover_;
};

BareSqueeze::BareSqueeze(std::byte* data, uint32_t pages, uint32_t most_resident)
    : impl_(std::make_unique<Impl>(data, pages, most_resident)) {}

BareSqueeze::~BareSqueeze() = default;

}  // namespace zmem
