#include "libzmem/codec/zstd_compressor.h"

#include <zstd.h>

#include <array>
#include <cstring>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

constexpr int kLevel = 1;

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

struct ZstdScratch final : Scratch {
  std::unique_ptr<ZSTD_CCtx, FreeContext> compress{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, FreeContext> decompress{ZSTD_createDCtx()};
};

// Anything else could make the library take its path for the formats of before 1.0, which
// allocates, or join several frames into one page.
bool IsOneFrame(std::span<const std::byte> compressed) {
  uint32_t magic;
  if (compressed.size() < sizeof magic) return false;
  std::memcpy(&magic, compressed.data(), sizeof magic);
  return magic == ZSTD_MAGICNUMBER &&
         ZSTD_findFrameCompressedSize(compressed.data(), compressed.size()) == compressed.size();
}

}  // namespace

std::unique_ptr<Scratch> ZstdCompressor::MakeScratch() const {
  auto scratch = std::make_unique<ZstdScratch>();
  ZMEM_CHECK(scratch->compress != nullptr && scratch->decompress != nullptr);
  size_t set = ZSTD_CCtx_setParameter(scratch->compress.get(), ZSTD_c_compressionLevel, kLevel);
  ZMEM_CHECK(!ZSTD_isError(set));
  // A context sizes its tables on first use; every page then needs the same.
  std::array<std::byte, kPageBytes> page{};
  std::array<std::byte, kPageBytes> out;
  ZMEM_CHECK(Compress(page, out, *scratch).has_value());
  return scratch;
}

std::optional<size_t> ZstdCompressor::Compress(std::span<const std::byte, kPageBytes> page,
                                               std::span<std::byte> out, Scratch& scratch) const {
  size_t written = ZSTD_compress2(static_cast<ZstdScratch&>(scratch).compress.get(), out.data(),
                                  out.size(), page.data(), page.size());
  if (ZSTD_isError(written)) return std::nullopt;
  return written;
}

bool ZstdCompressor::Decompress(std::span<const std::byte> compressed,
                                std::span<std::byte, kPageBytes> page, Scratch& scratch) const {
  if (!IsOneFrame(compressed)) return false;
  size_t restored =
      ZSTD_decompressDCtx(static_cast<ZstdScratch&>(scratch).decompress.get(), page.data(),
                          page.size(), compressed.data(), compressed.size());
  return restored == kPageBytes;  // an error code is larger
}

}  // namespace zmem
