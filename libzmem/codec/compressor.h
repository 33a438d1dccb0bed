// One interface over the codecs. A page goes in, at most a page comes out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "libzmem/base/page.h"

namespace zmem {

// As stored in page entries and in shared memory: never renumber.
enum class CodecId : uint8_t {
  kRaw = 0,       // the page itself, uncompressed
  kSameWord = 1,  // one 8-byte word that fills the page
  kLz4 = 2,
  kLzo = 3,
  kZstd = 4,
};
inline constexpr size_t kCodecIds = 5;

// Working memory of one thread's calls into one Compressor; made by it, used by nobody else at the
// same time.
class Scratch {
 public:
  virtual ~Scratch() = default;
};

// Compresses single pages. Immutable and thread-safe; scratch space belongs to the caller.
class Compressor {
 public:
  virtual ~Compressor() = default;

  virtual CodecId id() const = 0;
  // As in the configuration: "lz4", "lzo", "zstd".
  virtual std::string_view name() const = 0;

  // Allocates; call it at start, not on a hot path.
  virtual std::unique_ptr<Scratch> MakeScratch() const = 0;

  // Writes the compressed form of `page` to the front of `out`.
  //   page: kPageBytes bytes, any alignment, not changing during the call.
  //   out:  1..kPageBytes bytes; what follows the result is unspecified.
  // Returns the bytes written, or nullopt if they do not fit, which is normal. Never allocates.
  virtual std::optional<size_t> Compress(std::span<const std::byte, kPageBytes> page,
                                         std::span<std::byte> out, Scratch& scratch) const = 0;

  // Restores what Compress made into `page`.
  // Returns false if `compressed` is not a whole page's compressed form; `page` is then
  // unspecified. Reads and writes nothing outside the spans whatever the input. Never allocates.
  virtual bool Decompress(std::span<const std::byte> compressed,
                          std::span<std::byte, kPageBytes> page, Scratch& scratch) const = 0;
};

// The codec called `name`, or null if there is none or it was left out of this build (see
// CodecNames). The object is static and lives for ever.
const Compressor* FindCompressor(std::string_view name);
// The codec whose objects carry `id`, or null for kRaw, kSameWord and codecs left out.
const Compressor* FindCompressor(CodecId id);
// The names of the codecs in this build, the default first.
std::vector<std::string_view> CodecNames();

}  // namespace zmem
