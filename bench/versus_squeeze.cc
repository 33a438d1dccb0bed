// Cases 5 to 7 of bench/versus_kernel: programs that may keep only a part of their memory resident.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "bench/samples.h"
#include "bench/versus_bench.h"

namespace zmem {
namespace {

// Parts of a program that are resident, in percent, for a plot; the cases are measured at half.
constexpr int kShares[] = {90, 75, 60, 50, 40};
constexpr int kMeasuredShare = 50;
// Pairs of runs for a point of the plot.
constexpr int kRunsForPoint = 3;
// After so many restarts the peer is not worth the time.
constexpr int kMostKills = 5;

uint32_t Part(const VersusBench& bench, int percent) {
  return static_cast<uint32_t>(uint64_t{bench.options().pages()} * percent / 100);
}

// A program of zmem and one of zram, which are squeezed step by step.
class Squeeze {
 public:
  explicit Squeeze(VersusBench& bench)
      : bench_(bench),
        pair_(kLimitOnly, {.pages = bench.options().pages(),
                           .seconds = bench.options().seconds,
                           .settle_s = bench.options().settle_s}) {
    pair_.ForEach([](KeptProgram& program, MemoryKeeper&) { program.Measure("fill"); });
  }

  void LimitTo(int percent) {
    pages_ = Part(bench_, percent);
    pair_.ForEach([this](KeptProgram& program, MemoryKeeper&) { program.LimitTo(pages_); });
  }

  // What `measure` makes of both; of zmem alone if there is no zram.
  template <typename Measure>
  auto Both(Measure measure) {
    auto zmem = measure(*pair_.zmem);
    std::optional<decltype(zmem)> zram;
    if (pair_.zram) zram = OfZram(measure);
    return std::pair(zmem, zram);
  }

  void VerifyAndStop() {
    if (kills_ > 0) {
      bench_.results().AddNote(absl::StrCat("squeeze: the kernel killed zram's program ", kills_,
                                            " times although swap had room; it was run again"));
    }
    pair_.VerifyAndStop();
  }

 private:
  template <typename Measure>
  auto OfZram(Measure measure) {
    while (true) {
      try {
        return measure(*pair_.zram);
      } catch (const HarnessError&) {
        if (pair_.zram->child().Running() || ++kills_ > kMostKills) throw;
        pair_.RestartZram();
        pair_.zram->Measure("fill");
        pair_.zram->LimitTo(pages_);
      }
    }
  }

  VersusBench& bench_;
  ProgramPair pair_;
  uint32_t pages_ = 0;
  int kills_ = 0;
};

// A program of its own that is squeezed by bare system calls by `command`.
class BareProgram {
 public:
  BareProgram(const VersusBench& bench, const std::string& command)
      : command_(command),
        program_(*nobody_, {.pages = bench.options().pages(),
                            .seconds = bench.options().seconds,
                            .settle_s = bench.options().settle_s}) {
    program_.Measure("fill");
    Measure();
  }

  double Measure() {
    double per_s = program_.Measure(command_).per_s();
    program_.Do("verify some");
    return per_s;
  }

 private:
  const std::string command_;
  const std::unique_ptr<MemoryKeeper> nobody_ = KeepByNobody();
  KeptProgram program_;
};

// Pairs of what `command` reaches, for the row `name`; with what bare calls reach for
// `bare_command`, if there is one. One run before the first is not counted.
void MeasureAtHalf(VersusBench& bench, Squeeze& squeeze, const std::string& command,
                   const std::string& name, const std::string& bare_command) {
  auto measure = [&command](KeptProgram& program) { return program.Measure(command).per_s(); };
  bench.Tell(absl::StrCat(command, ", settling"));
  std::optional<BareProgram> bare_program;
  try {
    if (!bare_command.empty()) bare_program.emplace(bench, bare_command);
  } catch (const HarnessError& error) {
    bench.results().AddNote(absl::StrCat("bare calls were not measured: ",
                                         absl::StrReplaceAll(error.what(), {{"\n", " "}})));
  }
  squeeze.Both(measure);
  bench.Repeat([&] {
    auto [zmem, zram] = squeeze.Both(measure);
    Figures bare;
    if (bare_program) bare[name] = bare_program->Measure();
    bench.Add({{name, zmem}}, zram ? std::optional(Figures{{name, *zram}}) : std::nullopt, bare);
  });
}

// A point of the plot: medians, since a single run may be half as fast as the next.
nlohmann::json MeasureShare(Squeeze& squeeze, int share) {
  std::vector<double> zmem_per_s;
  std::vector<double> zram_per_s;
  for (int run = 0; run < kRunsForPoint; ++run) {
    auto [zmem, zram] =
        squeeze.Both([](KeptProgram& program) { return program.Measure("random").per_s(); });
    zmem_per_s.push_back(zmem);
    if (zram) zram_per_s.push_back(*zram);
  }
  auto [zmem_pages, zram_pages] =
      squeeze.Both([](KeptProgram& program) { return program.ResidentPages(); });
  nlohmann::json point = {
      {"share", share}, {"zmem", Median(zmem_per_s)}, {"zmem_resident_pages", zmem_pages}};
  if (zram_pages) {
    point.update({{"zram", Median(zram_per_s)}, {"zram_resident_pages", *zram_pages}});
  }
  return point;
}

}  // namespace

void RunSqueeze(VersusBench& bench) {
  Squeeze squeeze(bench);
  for (int share : kShares) {
    if (share != kMeasuredShare && !bench.Wants("random")) continue;
    bench.Tell(absl::StrCat(share, " % resident"));
    squeeze.LimitTo(share);
    if (share == kMeasuredShare) {
      if (bench.Wants("scan")) MeasureAtHalf(bench, squeeze, "scan", "scan.rate", "");
      if (bench.Wants("random")) {
        MeasureAtHalf(bench, squeeze, "random", "random.rate", "random bare");
      }
    }
    if (!bench.Wants("random")) continue;
    nlohmann::json point = MeasureShare(squeeze, share);
    bench.results().details()["random_per_s"].push_back(point);
  }
  squeeze.VerifyAndStop();
}

void RunGrowth(VersusBench& bench) {
  std::unique_ptr<MemoryKeeper> zmem = KeepByZmem(kLimitOnly);
  std::unique_ptr<MemoryKeeper> zram;
  if (WhyNoZram().empty()) zram = KeepByZram(bench.options().mib << 21);
  auto grow = [&bench](MemoryKeeper& keeper) {
    KeptProgram program(keeper, {.pages = bench.options().pages()});
    program.LimitEmpty(Part(bench, kMeasuredShare));
    Measured filled = program.Measure("fill");
    program.Do("verify some");
    return Figures{{"growth.rate", filled.per_s() * kPageBytes / (1 << 20)}};
  };
  bench.Repeat([&] {
    Figures grown = grow(*zmem);
    bench.Add(grown, zram ? std::optional(grow(*zram)) : std::nullopt);
  });
  zmem->Stop();
}

}  // namespace zmem
