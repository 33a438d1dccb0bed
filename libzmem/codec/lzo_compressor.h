// LZO1X-1, zram's historical default. liblzo2 is GPL: `--define lzo=no` leaves this file out.
// Immutable and thread-safe; must never allocate outside MakeScratch.
// Source: lzo1x_1_compress, lzo1x_decompress_safe (lzo1x.h, LZO.FAQ).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "libzmem/codec/compressor.h"

namespace zmem {

class LzoCompressor final : public Compressor {
 public:
  // Ends the process if the library was built for another ABI, which is all lzo_init checks.
  LzoCompressor();

  CodecId id() const override { return CodecId::kLzo; }
  std::string_view name() const override { return "lzo"; }
  std::unique_ptr<Scratch> MakeScratch() const override;
  std::optional<size_t> Compress(std::span<const std::byte, kPageBytes> page,
                                 std::span<std::byte> out, Scratch& scratch) const override;
  bool Decompress(std::span<const std::byte> compressed, std::span<std::byte, kPageBytes> page,
                  Scratch& scratch) const override;
};

}  // namespace zmem
