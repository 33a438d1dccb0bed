// A store of a test's own, and pages put straight into a process's table, as if they had been taken
// out.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "libzmem/base/check.h"
#include "libzmem/store/process.h"
#include "libzmem/testing/memory.h"

namespace zmem {

template <typename T>
T OrDie(absl::StatusOr<T> result) {
  if (!result.ok()) std::fprintf(stderr, "%s\n", std::string(result.status().message()).c_str());
  ZMEM_CHECK(result.ok());
  return *std::move(result);
}

struct TestStore {
  struct Options {
    uint64_t pool_limit_bytes = uint64_t{256} << 20;
    uint64_t pool_keep_divisor = 0;
    size_t fat_bytes = kPageBytes * 3 / 4;
    uint64_t max_chunks = 4096;
    std::string_view codec = "lz4";
    uint64_t file_bytes = 0;  // of a backing file; 0 is none
    unsigned accept_threshold_percent = 90;
    unsigned clean_pages_percent = 0;
  };

  TestStore() : TestStore(Options()) {}
  explicit TestStore(const Options& options)
      : arena(OrDie(ChunkArena::Create(options.max_chunks))),
        pool(OrDie(Zpool::Create({.limit_bytes = options.pool_limit_bytes,
                                  .reserved_bytes = uint64_t{4} << 30,
                                  .keep_divisor = options.pool_keep_divisor}))),
        file(options.file_bytes == 0 ? nullptr : OpenFile(options.file_bytes)),
        store(*pool, {.compressor = FindCompressor(options.codec),
                      .fat_bytes = options.fat_bytes,
                      .accept_threshold_percent = options.accept_threshold_percent,
                      .clean_pages_percent = options.clean_pages_percent,
                      .backing = file.get()}) {}

  static std::unique_ptr<BackingFile> OpenFile(uint64_t bytes) {
    // It has no name, so nothing is left but an empty directory entry, which goes at once.
    const char* parent = std::getenv("TEST_TMPDIR");
    std::string path = std::string(parent != nullptr ? parent : "/var/tmp") + "/zmem-store.XXXXXX";
    UniqueFd name(mkstemp(path.data()));
    std::unique_ptr<BackingFile> file = OrDie(
        BackingFile::Open({.path = path, .size_bytes = bytes, .segment_bytes = size_t{256} << 10}));
    unlink(path.c_str());
    return file;
  }

  // In the pool and in the file.
  uint64_t objects() const {
    return pool->stats().objects + (file == nullptr ? 0 : file->stats().objects);
  }
  // Writes over the bytes of the object that `entry` names, as broken memory would.
  void Damage(PageEntry entry) {
    std::span<const std::byte> object = pool->Get(entry.handle(), entry.object_bytes());
    std::memset(const_cast<std::byte*>(object.data()), 0xff, object.size());
  }

  std::unique_ptr<ChunkArena> arena;
  std::unique_ptr<Zpool> pool;
  std::unique_ptr<BackingFile> file;
  PageStore store;
  PageStore::Workspace workspace;
};

// This process as zmem sees a program, with a userfaultfd of its own.
inline std::shared_ptr<Process> ProcessOfThisOne(TestStore& store) {
  auto process = std::make_shared<Process>(store.store, *store.arena, ReadyUserfaultfd());
  process->pid = getpid();
  process->pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  process->memory = OrDie(RemoteMemory::Open(getpid()));
  process->pagemap = OrDie(Pagemap::Open(getpid()));
  process->bound = true;
  return process;
}

// Registers `range`, which lies in whole chunks or parts of them, with the process's userfaultfd.
inline void RegisterRange(Process& process, AddressRange range) {
  ZMEM_CHECK(process.uffd.Register(range) == 0);
  GateLock lock(process.gate);
  for (Address page = range.start; page < range.end; page += kPageBytes) {
    wire::PageSet one;
    one.Add(PageInChunk(page));
    ZMEM_CHECK(process.table.FindOrAdd(ChunkNumber(page)) != nullptr);
    process.table.AddRegistered(ChunkNumber(page), one);
  }
}

// Makes `bytes` what zmem holds for the page at `address`, which the program has not touched.
inline void Publish(Process& process, Address address, PageEntry entry) {
  std::shared_ptr<Chunk> chunk = process.table.FindOrAdd(ChunkNumber(address));
  process.counters.AddStored(entry);
  PageEntry resident;
  ZMEM_CHECK(chunk->Transition(PageInChunk(address), resident, entry));
}

inline PageEntry StorePage(TestStore& store, Process& process, Address address,
                           const PageBytes& page) {
  PageEntry entry;
  ZMEM_CHECK(store.store.Put(page.bytes, store.workspace, &entry) == StoreResult::kStored);
  Publish(process, address, entry);
  return entry;
}

inline PageEntry EntryOf(Process& process, Address address) {
  std::shared_ptr<Chunk> chunk = process.table.Find(ChunkNumber(address));
  return chunk == nullptr ? PageEntry() : chunk->Load(PageInChunk(address));
}

}  // namespace zmem
