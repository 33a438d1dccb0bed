// The densest codec, for pages that are expected to stay away long.
// Immutable and thread-safe; must never allocate outside MakeScratch. Compress may refuse when
// fewer than 10 bytes of `out` would be left over: the library writes ahead of what it keeps.
// Source: ZSTD_compress2, ZSTD_decompressDCtx (zstd.h); RFC 8878.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "libzmem/codec/compressor.h"

namespace zmem {

class ZstdCompressor final : public Compressor {
 public:
  CodecId id() const override { return CodecId::kZstd; }
  std::string_view name() const override { return "zstd"; }
  std::unique_ptr<Scratch> MakeScratch() const override;
  std::optional<size_t> Compress(std::span<const std::byte, kPageBytes> page,
                                 std::span<std::byte> out, Scratch& scratch) const override;
  bool Decompress(std::span<const std::byte> compressed, std::span<std::byte, kPageBytes> page,
                  Scratch& scratch) const override;
};

}  // namespace zmem
