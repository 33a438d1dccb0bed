// The codecs of this build, in one table. Immutable after first use, so thread-safe.
#include "libzmem/codec/compressor.h"
#include "libzmem/codec/lz4_compressor.h"
#ifdef ZMEM_LZO
#include "libzmem/codec/lzo_compressor.h"
#endif
#include "libzmem/codec/zstd_compressor.h"

namespace zmem {
namespace {

// The default first. Never destroyed: threads may still compress while the process exits.
std::span<const Compressor* const> Codecs() {
  static const Compressor* const codecs[] = {
      new Lz4Compressor,
#ifdef ZMEM_LZO
      new LzoCompressor,
#endif
      new ZstdCompressor,
  };
  return codecs;
}

}  // namespace

const Compressor* FindCompressor(std::string_view name) {
  for (const Compressor* codec : Codecs()) {
    if (codec->name() == name) return codec;
  }
  return nullptr;
}

const Compressor* FindCompressor(CodecId id) {
  for (const Compressor* codec : Codecs()) {
    if (codec->id() == id) return codec;
  }
  return nullptr;
}

std::vector<std::string_view> CodecNames() {
  std::vector<std::string_view> names;
  for (const Compressor* codec : Codecs()) names.push_back(codec->name());
  return names;
}

}  // namespace zmem
