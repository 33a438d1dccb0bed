// What a page costs in each codec: time per page in and out, and the ratio, per kind of page.
//   ./bazelw run //bench:codecs
// One iteration is one page out of kPages different ones. `ratio` is page bytes over stored bytes,
// with pages that do not compress counted as stored whole.
#include <benchmark/benchmark.h>
#include <sys/utsname.h>

#include <array>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "bench/page_samples.h"
#include "libzmem/base/check.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/codec/same_filled.h"

namespace zmem::bench {
namespace {

constexpr size_t kPages = 512;  // 2 MiB, as much as a core's second-level cache

using Page = std::array<std::byte, kPageBytes>;

std::vector<Page> SamplePages(PageKind kind) {
  std::vector<Page> pages(kPages);
  for (size_t i = 0; i < kPages; ++i) FillSamplePage(kind, i, pages[i]);
  return pages;
}

void Compress(benchmark::State& state, const Compressor* codec, PageKind kind) {
  std::vector<Page> pages = SamplePages(kind);
  auto scratch = codec->MakeScratch();
  Page out;
  size_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(codec->Compress(pages[i], out, *scratch));
    i = (i + 1) % kPages;
  }
  size_t stored_bytes = 0;
  for (const Page& page : pages) {
    stored_bytes += codec->Compress(page, out, *scratch).value_or(kPageBytes);
  }
  state.counters["ratio"] =
      static_cast<double>(kPages * kPageBytes) / static_cast<double>(stored_bytes);
}

void Decompress(benchmark::State& state, const Compressor* codec, PageKind kind) {
  auto scratch = codec->MakeScratch();
  std::vector<std::vector<std::byte>> compressed;
  Page page;
  for (const Page& sample : SamplePages(kind)) {
    auto bytes = codec->Compress(sample, page, *scratch);
    if (bytes) compressed.emplace_back(page.begin(), page.begin() + *bytes);
  }
  if (compressed.empty()) return state.SkipWithError("pages of this kind do not compress");
  size_t i = 0;
  for (auto _ : state) {
    bool is_restored = codec->Decompress(compressed[i], page, *scratch);
    ZMEM_CHECK(is_restored);
    i = (i + 1) % compressed.size();
  }
}

void SameFilled(benchmark::State& state, bool is_same) {
  Page page;
  FillWithWord(0x0101010101010101, page);
  if (!is_same) page[kPageBytes - 9] ^= std::byte{1};  // the latest place at which it can be seen
  for (auto _ : state) {
    benchmark::DoNotOptimize(page);
    benchmark::DoNotOptimize(SameFilledWord(page));
  }
}

void RegisterAll() {
  for (std::string_view name : CodecNames()) {
    const Compressor* codec = FindCompressor(name);
    for (PageKind kind : kPageKinds) {
      std::string what = std::string(name) + "/" + std::string(PageKindName(kind));
      benchmark::RegisterBenchmark((what + "/compress").c_str(), Compress, codec, kind);
      if (kind == PageKind::kRandom) continue;  // stored whole
      benchmark::RegisterBenchmark((what + "/decompress").c_str(), Decompress, codec, kind);
    }
  }
  benchmark::RegisterBenchmark("same_filled/yes", SameFilled, true);
  benchmark::RegisterBenchmark("same_filled/no_at_the_end", SameFilled, false);
}

}  // namespace
}  // namespace zmem::bench

int main(int argc, char** argv) {
  utsname system;
  if (uname(&system) == 0) benchmark::AddCustomContext("kernel", system.release);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  zmem::bench::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
}
