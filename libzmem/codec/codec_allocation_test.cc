// Codecs run on the fault path and must not allocate there: this file replaces malloc by one that
// counts, so it tests nothing in builds where a sanitizer brings its own.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <random>

#include "libzmem/codec/compressor.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ZMEM_SANITIZER_OWNS_MALLOC
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ZMEM_SANITIZER_OWNS_MALLOC
#endif

namespace {
std::atomic<int> g_allocations{0};
}  // namespace

#ifndef ZMEM_SANITIZER_OWNS_MALLOC
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t count, size_t bytes);
void* __libc_realloc(void* old, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) {
  ++g_allocations;
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  ++g_allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* old, size_t bytes) {
  ++g_allocations;
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  ++g_allocations;
  return __libc_memalign(alignment, bytes);
}
}
#endif

namespace zmem {
namespace {

using Page = std::array<std::byte, kPageBytes>;

TEST(CodecAllocation, CompressAndDecompressNeverAllocate) {
#ifdef ZMEM_SANITIZER_OWNS_MALLOC
  GTEST_SKIP() << "malloc belongs to the sanitizer";
#endif
  for (std::string_view name : CodecNames()) {
    const Compressor* codec = FindCompressor(name);
    int before_scratch = g_allocations;
    auto scratch = codec->MakeScratch();
    ASSERT_GT(g_allocations, before_scratch) << "the counting malloc is not in use";
    std::mt19937_64 random(1);
    Page page{};
    Page out;
    Page restored;
    int before = g_allocations;
    bool same = true;
    for (size_t alphabet = 1; alphabet <= 256; ++alphabet) {
      for (std::byte& byte : page) byte = static_cast<std::byte>(random() % alphabet);
      for (size_t out_bytes : {size_t{1}, size_t{100}, kPageBytes}) {
        auto bytes = codec->Compress(page, std::span(out).first(out_bytes), *scratch);
        if (!bytes) continue;
        same &= codec->Decompress(std::span(out).first(*bytes), restored, *scratch);
        same &= restored == page;
        out[*bytes / 2] ^= std::byte{0x10};
        codec->Decompress(std::span(out).first(*bytes), restored, *scratch);
      }
    }
    EXPECT_EQ(g_allocations, before) << name;
    EXPECT_TRUE(same) << name;
  }
}

}  // namespace
}  // namespace zmem
