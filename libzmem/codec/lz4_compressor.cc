#include "libzmem/codec/lz4_compressor.h"

#include <lz4.h>

namespace zmem {
namespace {

constexpr int kAcceleration = 1;  // LZ4's default; more trades ratio for speed

struct Lz4Scratch final : Scratch {
  LZ4_stream_t state;  // LZ4_compress_fast_extState initialises it on every call
};

const char* Chars(const std::byte* bytes) { return reinterpret_cast<const char*>(bytes); }
char* Chars(std::byte* bytes) { return reinterpret_cast<char*>(bytes); }

}  // namespace

std::unique_ptr<Scratch> Lz4Compressor::MakeScratch() const {
  return std::make_unique<Lz4Scratch>();
}

std::optional<size_t> Lz4Compressor::Compress(std::span<const std::byte, kPageBytes> page,
                                              std::span<std::byte> out, Scratch& scratch) const {
  int written = LZ4_compress_fast_extState(&static_cast<Lz4Scratch&>(scratch).state,
                                           Chars(page.data()), Chars(out.data()), kPageBytes,
                                           static_cast<int>(out.size()), kAcceleration);
  if (written <= 0) return std::nullopt;
  return static_cast<size_t>(written);
}

bool Lz4Compressor::Decompress(std::span<const std::byte> compressed,
                               std::span<std::byte, kPageBytes> page, Scratch&) const {
  // No page has a longer form than this, and the length has to fit an int.
  if (compressed.size() > LZ4_COMPRESSBOUND(kPageBytes)) return false;
  int restored = LZ4_decompress_safe(Chars(compressed.data()), Chars(page.data()),
                                     static_cast<int>(compressed.size()), kPageBytes);
  return restored == static_cast<int>(kPageBytes);
}

}  // namespace zmem
