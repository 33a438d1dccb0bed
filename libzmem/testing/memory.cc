#include "libzmem/testing/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

constexpr int kMessageTimeoutMs = 10'000;

template <typename Word>
void Put(PageBytes& page, size_t at, Word word) {
  std::memcpy(page.bytes.data() + at, &word, sizeof word);
}

}  // namespace

PageBytes CompressiblePage(uint64_t key) {
  PageBytes page;
  // Records of 64 bytes, most of each the same: about a third when compressed.
  std::mt19937_64 random(key);
  for (size_t at = 0; at < kPageBytes; at += sizeof(uint64_t)) {
    bool differs = at % 64 < 16;
    Put(page, at, differs ? random() : key * 0x9e3779b97f4a7c15);
  }
  return page;
}

PageBytes IncompressiblePage(uint64_t key) {
  PageBytes page;
  std::mt19937_64 random(key ^ 0x5a5a);
  for (size_t at = 0; at < kPageBytes; at += sizeof(uint64_t)) Put(page, at, random());
  return page;
}

PageBytes FilledPage(uint64_t word) {
  PageBytes page;
  for (size_t at = 0; at < kPageBytes; at += sizeof word) Put(page, at, word);
  return page;
}

uint64_t TestSeed() {
  const char* text = std::getenv("ZMEM_TEST_SEED");
  uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 0) : 20240607;
  std::printf("ZMEM_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);  // or forked children would print it too
  return seed;
}

UniqueFd NewUserfaultfd() {
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  ZMEM_CHECK(fd.valid());  // these tests need root
  return fd;
}

Userfaultfd ReadyUserfaultfd() {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Handshake(NewUserfaultfd());
  ZMEM_CHECK(uffd.ok());
  return *std::move(uffd);
}

bool AwaitMessage(const Userfaultfd& uffd) {
  pollfd readable{uffd.fd(), POLLIN, 0};
  return sys::Poll(&readable, 1, kMessageTimeoutMs) == 1 && (readable.revents & POLLIN) != 0;
}

Mapping::Mapping(size_t chunks, Address at) : mapped_(chunks * kPagesPerChunk, true) {
  size_t bytes = chunks * kChunkBytes;
  if (at != 0) {
    void* mapped = mmap(reinterpret_cast<void*>(at), bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    ZMEM_CHECK(mapped == reinterpret_cast<void*>(at));
    range_ = {at, at + bytes};
    return;
  }
  void* mapped = mmap(nullptr, bytes + kChunkBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ZMEM_CHECK(mapped != MAP_FAILED);
  Address start = reinterpret_cast<Address>(mapped);
  Address aligned = ChunkStart(start + kChunkBytes - 1);
  range_ = {aligned, aligned + bytes};
  Address end = start + bytes + kChunkBytes;
  if (end > range_.end) munmap(reinterpret_cast<void*>(range_.end), end - range_.end);
  if (aligned > start) munmap(mapped, aligned - start);
}

Mapping::~Mapping() {
  for (size_t page = 0; page < page_count();) {
    size_t end = page;
    while (end < page_count() && mapped_[end]) ++end;
    if (end > page) munmap(data(page), (end - page) * kPageBytes);
    page = end + 1;
  }
}

void Mapping::Unmap(size_t first, size_t count) {
  Forget(first, count);
  ZMEM_CHECK(munmap(data(first), count * kPageBytes) == 0);
}

void Mapping::Forget(size_t first, size_t count) {
  std::fill_n(mapped_.begin() + static_cast<ptrdiff_t>(first), count, false);
}

void Mapping::Write(size_t page, const PageBytes& bytes) const {
  std::memcpy(data(page), bytes.bytes.data(), kPageBytes);
}

bool Mapping::Holds(size_t page, const PageBytes& bytes) const {
  return std::memcmp(data(page), bytes.bytes.data(), kPageBytes) == 0;
}

pid_t ForkChild(const std::function<int()>& body) {
  pid_t child = _Fork();
  ZMEM_CHECK(child >= 0);
  if (child == 0) _exit(body());
  return child;
}

int Await(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace zmem
