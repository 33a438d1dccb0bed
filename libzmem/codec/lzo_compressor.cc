#include "libzmem/codec/lzo_compressor.h"

#include <lzo/lzo1x.h>

#include <array>
#include <cstring>

#include "libzmem/base/check.h"

namespace zmem {
namespace {

// The longest form of a page: lzo1x_1_compress knows no limit, so it writes here first.
// Source: LZO.FAQ, "How much can my data expand during compression?".
constexpr size_t kWorstCaseBytes = kPageBytes + kPageBytes / 16 + 64 + 3;

struct LzoScratch final : Scratch {
  alignas(lzo_align_t) std::array<std::byte, LZO1X_1_MEM_COMPRESS> work{};
  std::array<std::byte, kWorstCaseBytes> compressed;
};

lzo_bytep LzoBytes(std::byte* bytes) { return reinterpret_cast<lzo_bytep>(bytes); }
const unsigned char* LzoBytes(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}

}  // namespace

LzoCompressor::LzoCompressor() { ZMEM_CHECK(lzo_init() == LZO_E_OK); }

std::unique_ptr<Scratch> LzoCompressor::MakeScratch() const {
  return std::make_unique<LzoScratch>();
}

std::optional<size_t> LzoCompressor::Compress(std::span<const std::byte, kPageBytes> page,
                                              std::span<std::byte> out, Scratch& scratch) const {
  auto& own = static_cast<LzoScratch&>(scratch);
  lzo_uint written = 0;
  int result = lzo1x_1_compress(LzoBytes(page.data()), kPageBytes, LzoBytes(own.compressed.data()),
                                &written, own.work.data());
  if (result != LZO_E_OK || written > out.size()) return std::nullopt;
  std::memcpy(out.data(), own.compressed.data(), written);
  return written;
}

bool LzoCompressor::Decompress(std::span<const std::byte> compressed,
                               std::span<std::byte, kPageBytes> page, Scratch&) const {
  lzo_uint restored = kPageBytes;
  int result = lzo1x_decompress_safe(LzoBytes(compressed.data()), compressed.size(),
                                     LzoBytes(page.data()), &restored, nullptr);
  return result == LZO_E_OK && restored == kPageBytes;
}

}  // namespace zmem
