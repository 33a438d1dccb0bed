// What the pool costs: first the density it keeps (live over held bytes) for several distributions
// of sizes, beside the kernel's zram; then the time of Put, Get, Free and compaction with objects
// as long as lz4 makes a mix of pages.
//   ./bazelw run //bench:zpool -- [--mib N] [--json FILE] [--benchmark_... of Google Benchmark]
// Or, for the table in object_sizes.cc, how long lz4 makes the pages of running processes:
//   zpool --record PID [PID...]
#include "libzmem/pool/zpool.h"

#include <benchmark/benchmark.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bench/machine.h"
#include "bench/object_sizes.h"
#include "bench/page_samples.h"
#include "bench/pool_density.h"
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

// The rounds of a pool of `state.range(0)` MiB after a random half has been freed. Timed: choosing
// the victims, looking at every handle, moving and freeing, by object moved.
void Compact(benchmark::State& state) {
  size_t moved = 0;
  for (auto _ : state) {
    state.PauseTiming();
    FilledPool filled(static_cast<uint64_t>(state.range(0)) * kMib);
    std::shuffle(filled.objects.begin(), filled.objects.end(), filled.random);
    for (size_t half = filled.objects.size() / 2; half > 0; --half) {
      filled.pool->Free(filled.objects.back().handle, filled.objects.back().bytes);
      filled.objects.pop_back();
    }
    state.ResumeTiming();
    filled.pool->ChooseVictims(~size_t{0});
    for (Object& object : filled.objects) {
      if (!filled.pool->IsVictim(object.handle)) continue;
      ZHandle copy = filled.pool->Move(object.handle, object.bytes).value();
      filled.pool->Free(object.handle, object.bytes);
      object.handle = copy;
      ++moved;
    }
    filled.pool->EndRound();
    state.counters["density"] = filled.density();
  }
  state.counters["time_per_move"] = benchmark::Counter(
      static_cast<double>(moved), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

// What choosing and restoring victims takes, by victim: the same in a large pool as in a small one.
void ChooseVictims(benchmark::State& state) {
  constexpr size_t kVictims = 128;
  FilledPool filled(static_cast<uint64_t>(state.range(0)) * kMib);
  std::shuffle(filled.objects.begin(), filled.objects.end(), filled.random);
  for (size_t i = 0; i < filled.objects.size() / 2; ++i) {
    filled.pool->Free(filled.objects[i].handle, filled.objects[i].bytes);
  }
  while (state.KeepRunningBatch(kVictims)) {
    ZMEM_CHECK(filled.pool->ChooseVictims(kVictims) == kVictims);
    filled.pool->EndRound();
  }
}

// Threads that put and free objects of one size, and so of one size class, in a shared pool whose
// spans have room, so that no span comes or goes. With `state.range(0)`, each compresses a page
// before it puts, as those that evict do; without, next to nothing but the lock is left.
void PutAndFreeOfOneSize(benchmark::State& state) {
  constexpr size_t kObjectBytes = 1200;
  static std::unique_ptr<Zpool> pool;
  const Compressor* codec = FindCompressor("lz4");
  auto scratch = codec->MakeScratch();
  Page page;
  Page content{};
  FillSamplePage(PageKind::kHeap, static_cast<uint64_t>(state.thread_index()), page);
  auto object = std::span(content).first(kObjectBytes);
  if (state.thread_index() == 0) {
    pool = MakePool();
    std::vector<ZHandle> filled;
    for (size_t i = 0; i < 16 * kBatch; ++i) filled.push_back(pool->Put(object).value());
    for (size_t i = 0; i < filled.size(); i += 2) pool->Free(filled[i], kObjectBytes);
  }
  std::vector<ZHandle> handles;
  while (state.KeepRunningBatch(kBatch)) {
    for (size_t i = 0; i < kBatch; ++i) {
      if (state.range(0) != 0) codec->Compress(page, content, *scratch);
      handles.push_back(pool->Put(object).value());
    }
    for (ZHandle handle : handles) pool->Free(handle, kObjectBytes);
    handles.clear();
  }
  if (state.thread_index() == 0) pool.reset();
}

BENCHMARK(PutIntoNewSpans);
BENCHMARK(PutAndFreeOfOneSize)
    ->ArgName("compress")
    ->Arg(0)
    ->Arg(1)
    ->ThreadRange(1, 4)
    ->UseRealTime();
BENCHMARK(Put)->Arg(64)->Arg(512);
BENCHMARK(Get)->Arg(64)->Arg(512);
BENCHMARK(Free)->Arg(64)->Arg(512);
BENCHMARK(Compact)->Arg(64)->Iterations(3)->Unit(benchmark::kMillisecond);
BENCHMARK(ChooseVictims)->Arg(16)->Arg(64)->Arg(512);

int Record(const std::vector<pid_t>& pids) {
  SizeBands bands{};
  for (pid_t pid : pids) {
    if (RecordSizes(pid, bands)) continue;
    std::fprintf(stderr, "cannot read the memory of process %d\n", pid);
    return 1;
  }
  for (uint64_t objects : bands) std::printf("%lu, ", objects);
  std::printf("\n");
  return 0;
}

}  // namespace
}  // namespace zmem::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  CLI::App app("What the pool costs: density beside zram, and times");
  uint64_t mib = 128;
  std::string json_path;
  std::vector<pid_t> recorded_pids;
  app.add_option("--mib", mib, "live bytes at first, for the density")->check(CLI::Range(1, 4096));
  app.add_option("--json", json_path, "write the density figures to this file");
  app.add_option("--record", recorded_pids, "only print the sizes of these processes' pages");
  CLI11_PARSE(app, argc, argv);
  if (!recorded_pids.empty()) return zmem::bench::Record(recorded_pids);
  try {
    zmem::PrintMachine();
    nlohmann::json density = zmem::bench::MeasureDensity(mib << 20);
    zmem::WriteJson(json_path, {{"machine", zmem::Machine()}, {"density", density}});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "zpool: %s\n", error.what());
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
}
