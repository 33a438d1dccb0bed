// What the pool costs: time of Put, Get and Free with objects as long as lz4 makes a mix of pages,
// and the density it keeps (live over held bytes), as filled and after churn.
//   ./bazelw run //bench:zpool
#include "libzmem/pool/zpool.h"

#include <benchmark/benchmark.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "bench/page_samples.h"
#include "libzmem/base/check.h"
#include "libzmem/codec/compressor.h"

namespace zmem::bench {
namespace {

using Page = std::array<std::byte, kPageBytes>;
using Random = std::mt19937_64;

constexpr uint64_t kMib = uint64_t{1} << 20;
constexpr size_t kBatch = 256;

std::unique_ptr<Zpool> MakePool() {
  auto pool = Zpool::Create({.limit_bytes = 4096 * kMib, .reserved_bytes = 32768 * kMib});
  ZMEM_CHECK(pool.ok());
  return *std::move(pool);
}

// How long lz4 makes the pages of the mix.
const std::vector<size_t>& ObjectSizes() {
  static const std::vector<size_t> sizes = [] {
    const Compressor* codec = FindCompressor("lz4");
    auto scratch = codec->MakeScratch();
    std::vector<size_t> sizes;
    for (uint64_t i = 0; i < 20'000; ++i) {
      Page page;
      Page out;
      FillSamplePage(MixedPageKind(i), i, page);
      sizes.push_back(codec->Compress(page, out, *scratch).value_or(kPageBytes));
    }
    return sizes;
  }();
  return sizes;
}

size_t RandomSize(Random& random) { return ObjectSizes()[random() % ObjectSizes().size()]; }

struct Object {
  ZHandle handle;
  size_t bytes;
};

// A pool filled with live bytes of the mix.
struct FilledPool {
  explicit FilledPool(uint64_t live_bytes) {
    while (pool->stats().live_bytes < live_bytes) {
      for (size_t i = 0; i < kBatch; ++i) objects.push_back(Put(RandomSize(random)));
    }
  }
  Object Put(size_t bytes) { return {pool->Put(std::span(content).first(bytes)).value(), bytes}; }
  // Replaces `count` random objects by new ones.
  void Churn(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      Object& object = objects[random() % objects.size()];
      pool->Free(object.handle, object.bytes);
      object = Put(RandomSize(random));
    }
  }
  double density() const {
    Zpool::Stats stats = pool->stats();
    return static_cast<double>(stats.live_bytes) / static_cast<double>(stats.held_bytes);
  }

  std::unique_ptr<Zpool> pool = MakePool();
  Random random{1};
  Page content{};
  std::vector<Object> objects;
};

void ReportMetadata(benchmark::State& state, const Zpool& pool) {
  Zpool::Stats stats = pool.stats();
  state.counters["metadata_percent"] =
      100.0 * static_cast<double>(stats.metadata_bytes) / static_cast<double>(stats.held_bytes);
}

// Into new spans: the time includes the kernel's for fresh pages.
void PutIntoNewSpans(benchmark::State& state) {
  constexpr size_t kObjects = 150'000;  // some 256 MiB
  FilledPool filled(0);
  ObjectSizes();
  for (auto _ : state) {
    filled.objects.push_back(filled.Put(RandomSize(filled.random)));
    if (filled.objects.size() < kObjects) continue;
    state.PauseTiming();
    for (const Object& object : filled.objects) filled.pool->Free(object.handle, object.bytes);
    filled.objects.clear();
    state.ResumeTiming();
  }
}

// Frees random objects and puts others, kBatch of each by turns, in a pool of `state.range(0)` MiB;
// one of the two is timed.
void Alternate(benchmark::State& state, bool put_is_timed) {
  FilledPool filled(static_cast<uint64_t>(state.range(0)) * kMib);
  filled.Churn(filled.objects.size());
  auto batch = std::span(filled.objects).last(kBatch);
  auto put = [&] {
    for (Object& object : batch) object = filled.Put(object.bytes);
  };
  auto free = [&] {
    for (const Object& object : batch) filled.pool->Free(object.handle, object.bytes);
  };
  while (state.KeepRunningBatch(kBatch)) {
    state.PauseTiming();
    for (Object& object : batch) {
      std::swap(object, filled.objects[filled.random() % filled.objects.size()]);
    }
    if (put_is_timed) {
      free();
    } else {
      state.ResumeTiming();
      free();
      state.PauseTiming();
    }
    for (Object& object : batch) object.bytes = RandomSize(filled.random);
    if (put_is_timed) state.ResumeTiming();
    put();
    if (!put_is_timed) state.ResumeTiming();
  }
  state.counters["density"] = filled.density();
  ReportMetadata(state, *filled.pool);
}
void Put(benchmark::State& state) { Alternate(state, true); }
void Free(benchmark::State& state) { Alternate(state, false); }

// Get, with a copy of what it gives, as nobody asks for the pointer alone.
void Get(benchmark::State& state) {
  FilledPool filled(static_cast<uint64_t>(state.range(0)) * kMib);
  Page copy;
  size_t i = 0;
  for (auto _ : state) {
    const Object& object = filled.objects[i * 7919 % filled.objects.size()];
    auto bytes = filled.pool->Get(object.handle, object.bytes);
    std::memcpy(copy.data(), bytes.data(), bytes.size());
    benchmark::DoNotOptimize(copy);
    ++i;
  }
}

// Not a time: how dense a pool of `state.range(0)` MiB is as filled, after each object has been
// replaced four times, and after a random half has been freed.
void Density(benchmark::State& state) {
  for (auto _ : state) {
    FilledPool filled(static_cast<uint64_t>(state.range(0)) * kMib);
    state.counters["filled"] = filled.density();
    filled.Churn(4 * filled.objects.size());
    state.counters["churned"] = filled.density();
    ReportMetadata(state, *filled.pool);
    std::shuffle(filled.objects.begin(), filled.objects.end(), filled.random);
    size_t half = filled.objects.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      filled.pool->Free(filled.objects[i].handle, filled.objects[i].bytes);
    }
    state.counters["half_freed"] = filled.density();
  }
}

BENCHMARK(PutIntoNewSpans);
BENCHMARK(Put)->Arg(64)->Arg(512);
BENCHMARK(Get)->Arg(64)->Arg(512);
BENCHMARK(Free)->Arg(64)->Arg(512);
BENCHMARK(Density)->Arg(64)->Arg(256)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace zmem::bench

int main(int argc, char** argv) {
  utsname system;
  if (uname(&system) == 0) benchmark::AddCustomContext("kernel", system.release);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
