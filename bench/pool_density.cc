#include "bench/pool_density.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "bench/object_sizes.h"
#include "bench/zram_device.h"
#include "libzmem/base/check.h"
#include "libzmem/base/clock.h"
#include "libzmem/pool/zpool.h"

namespace zmem::bench {
namespace {

using Random = std::mt19937_64;

constexpr std::array kPhases = {"replaced", "steady", "churned", "compacted"};

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// A pool and perhaps a zram device with the same objects, by number.
class BothPools {
 public:
  BothPools(std::vector<size_t> sizes, const SizedPages* zram_pages)
      : zram_pages_(zram_pages), sizes_(std::move(sizes)), handles_(sizes_.size()) {
    uint64_t limit_bytes = sizes_.size() * kPageBytes;
    auto pool = Zpool::Create({.limit_bytes = limit_bytes, .reserved_bytes = 16 * limit_bytes});
    ZMEM_CHECK(pool.ok());
    pool_ = *std::move(pool);
    if (zram_pages != nullptr) zram_.emplace(limit_bytes);
    for (size_t i = 0; i < sizes_.size(); ++i) Put(i);
  }

  size_t count() const { return sizes_.size(); }

  void Replace(size_t i, size_t bytes) {
    pool_->Free(handles_[i], sizes_[i]);
    sizes_[i] = bytes;
    Put(i);
  }

  void Free(size_t i) {
    pool_->Free(handles_[i], sizes_[i]);
    sizes_[i] = 0;
    if (zram_) zram_->Discard(i);
  }

  void Compact() {
    pool_->ChooseVictims(~size_t{0});
    for (size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] == 0 || !pool_->IsVictim(handles_[i])) continue;
      auto copy = pool_->Move(handles_[i], sizes_[i]);
      if (!copy) continue;
      pool_->Free(handles_[i], sizes_[i]);
      handles_[i] = *copy;
    }
    pool_->EndRound();
    if (zram_) zram_->Compact();
  }

  nlohmann::json Figures() const {
    Zpool::Stats stats = pool_->stats();
    nlohmann::json figures = {
        {"objects", stats.objects},
        {"live_bytes", stats.live_bytes},
        {"held_bytes", stats.held_bytes},
        {"metadata_bytes", stats.metadata_bytes},
        {"density", Share(stats.live_bytes, stats.held_bytes)},
    };
    if (zram_) {
      ZramDevice::Usage usage = zram_->usage();
      // Both shares are of the same bytes: zram counts a page that it stores raw as a whole page.
      figures["zram"] = {{"compressed_bytes", usage.compressed_bytes},
                         {"held_bytes", usage.held_bytes},
                         {"density", Share(stats.live_bytes, usage.held_bytes)}};
    }
    return figures;
  }

 private:
  void Put(size_t i) {
    handles_[i] = pool_->Put(std::span(page_).first(sizes_[i])).value();
    if (!zram_) return;
    zram_pages_->Fill(sizes_[i], i, page_);
    zram_->Write(i, page_);
  }

  const SizedPages* zram_pages_;
  std::vector<size_t> sizes_;  // 0: freed
  std::vector<ZHandle> handles_;
  std::unique_ptr<Zpool> pool_;
  std::optional<ZramDevice> zram_;
  alignas(kPageBytes) std::array<std::byte, kPageBytes> page_{};
};

nlohmann::json Measure(const SizeDistribution& distribution, uint64_t live_bytes,
                       const SizedPages* zram_pages) {
  Random random(1);
  SizeSource source(distribution);
  std::vector<size_t> sizes;
  for (uint64_t sum = 0; sum < live_bytes; sum += sizes.back()) {
    sizes.push_back(source.Next(random));
  }
  BothPools pools(std::move(sizes), zram_pages);
  std::vector<size_t> order(pools.count());
  std::iota(order.begin(), order.end(), size_t{0});

  nlohmann::json row = {{"distribution", distribution.name}};
  std::shuffle(order.begin(), order.end(), random);
  for (size_t i : order) pools.Replace(i, source.Next(random));
  row["replaced"] = pools.Figures();
  pools.Compact();
  row["steady"] = pools.Figures();
  std::shuffle(order.begin(), order.end(), random);
  for (size_t i : std::span(order).first(order.size() * 3 / 4)) pools.Free(i);
  row["churned"] = pools.Figures();
  pools.Compact();
  row["compacted"] = pools.Figures();
  return row;
}

void PrintLegend(uint64_t live_bytes) {
  std::printf(
      "\nlive over held bytes in the pool, and in the kernel's zram with pages of the same sizes\n"
      "  replaced   filled with %lu MiB, then each object replaced once, in random order\n"
      "  steady     after one round of compaction\n"
      "  churned    then three quarters freed at random\n"
      "  compacted  after one more round\n"
      "metadata: the pool's own bytes for each object when steady\n\n",
      live_bytes >> 20);
  std::printf("%-10s %8s %6s %9s", "", "objects", "bytes", "metadata");
  for (const char* pool : {"zmem", "zram"}) {
    for (const char* phase : kPhases) std::printf(" %10s", phase == kPhases[0] ? pool : "");
  }
  std::printf("\n%-10s %8s %6s %9s", "sizes", "", "each", "bytes");
  for (int pool = 0; pool < 2; ++pool) {
    for (const char* phase : kPhases) std::printf(" %10s", phase);
  }
  std::printf("\n");
}

void PrintRow(const nlohmann::json& row) {
  const nlohmann::json& steady = row["steady"];
  auto objects = steady["objects"].get<uint64_t>();
  std::printf("%-10s %8lu %6.0f %9.2f", row["distribution"].get<std::string>().c_str(), objects,
              Share(steady["live_bytes"], objects), Share(steady["metadata_bytes"], objects));
  for (const char* phase : kPhases) std::printf(" %10.3f", row[phase]["density"].get<double>());
  for (const char* phase : kPhases) {
    if (row[phase].contains("zram")) {
      std::printf(" %10.3f", row[phase]["zram"]["density"].get<double>());
    } else {
      std::printf(" %10s", "-");
    }
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

nlohmann::json MeasureDensity(uint64_t live_bytes) {
  std::string no_zram = ZramDevice::WhyUnavailable();
  std::optional<SizedPages> zram_pages;
  if (no_zram.empty()) {
    zram_pages.emplace();
  } else {
    std::printf("without zram: %s\n", no_zram.c_str());
  }
  PrintLegend(live_bytes);
  nlohmann::json rows = nlohmann::json::array();
  for (const SizeDistribution& distribution : kSizeDistributions) {
    rows.push_back(Measure(distribution, live_bytes, zram_pages ? &*zram_pages : nullptr));
    PrintRow(rows.back());
  }
  std::printf("\n");
  return {{"live_bytes", live_bytes}, {"zram_unavailable", no_zram}, {"rows", rows}};
}

}  // namespace zmem::bench
