// The default codec: LZ4's block format, the fastest of the three in both directions.
// Immutable and thread-safe; must never allocate outside MakeScratch.
// Source: LZ4_compress_fast_extState, LZ4_decompress_safe (lz4.h).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "libzmem/codec/compressor.h"

namespace zmem {

class Lz4Compressor final : public Compressor {
 public:
  CodecId id() const override { return CodecId::kLz4; }
  std::string_view name() const override { return "lz4"; }
  std::unique_ptr<Scratch> MakeScratch() const override;
  std::optional<size_t> Compress(std::span<const std::byte, kPageBytes> page,
                                 std::span<std::byte> out, Scratch& scratch) const override;
  bool Decompress(std::span<const std::byte> compressed, std::span<std::byte, kPageBytes> page,
                  Scratch& scratch) const override;
};

}  // namespace zmem
