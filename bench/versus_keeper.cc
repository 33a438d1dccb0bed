#include "bench/versus_keeper.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/cpu_time.h"
#include "bench/swap_file.h"

namespace zmem {
namespace {

// What takes longer has stalled.
constexpr std::chrono::seconds kAnswerTimeout{90};
// Page tables and what else a cgroup charges beside the pages of a program.
constexpr uint64_t kChargedBesideBytes = uint64_t{2} << 20;
constexpr uint64_t kChargedBesideDivisor = 512;  // a page table's entry for a page

class ZmemKeeper final : public MemoryKeeper {
 public:
  explicit ZmemKeeper(const std::string& config) : daemon_(DaemonOptions{.config = config}) {}

  std::string name() const override { return "zmem"; }
  ChildOptions Launch(std::vector<std::string> argv) const override {
    return Managed(daemon_, std::move(argv));
  }
  void Adopt(Child& child) override { WaitAttached(daemon_, child); }
  void TakeOut(KeptProgram& program) override { daemon_.Evict(program.child().pid()); }

  void LimitTo(KeptProgram& program, uint32_t pages) override {
    LimitEmpty(program, pages);
    uint64_t bytes = LimitBytes(program, pages);
    pid_t pid = program.child().pid();
    WaitUntil("zmem to hold the limit", kAnswerTimeout,
              [&] { return static_cast<uint64_t>(ResidentBytes(pid)) <= bytes; });
  }

  void LimitEmpty(KeptProgram& program, uint32_t pages) override {
    CommandResult result = daemon_.Ctl(
        {"limit", absl::StrCat(program.child().pid()), absl::StrCat(LimitBytes(program, pages))});
    if (result.status.Succeeded()) return;
    throw HarnessError(absl::StrCat("zmemctl limit: ", result.status.ToString(), ": ",
                                    absl::StripAsciiWhitespace(result.errors)));
  }

  // The program itself waits for commands meanwhile: what it uses is its agent's.
  double CpuSecondsFor(KeptProgram& program) const override {
    return CpuSeconds(daemon_.pid()) + CpuSeconds(program.child().pid());
  }

  double StoredPageBytes() const override {
    nlohmann::json status = daemon_.Status();
    double stored_bytes = status.at("pool").at("original_bytes");
    double held_bytes = status.at("pool").at("held_bytes").get<double>() +
                        status.at("metadata_bytes").get<double>();
    return stored_bytes > 0 ? held_bytes / (stored_bytes / kPageBytes) : 0;
  }

  void Stop() override { daemon_.Stop(); }

 private:
  static uint64_t LimitBytes(const KeptProgram& program, uint32_t pages) {
    return program.empty_bytes() + uint64_t{pages} * kPageBytes;
  }

  Daemon daemon_;
};

class ZramKeeper final : public MemoryKeeper {
 public:
  explicit ZramKeeper(uint64_t bytes) : zram_(bytes) {}

  std::string name() const override { return "zram"; }
  ChildOptions Launch(std::vector<std::string> argv) const override {
    return {.argv = std::move(argv)};
  }
  void Adopt(Child& child) override { cgroup_.Add(child.pid()); }
  void TakeOut(KeptProgram& program) override { program.Do("page out"); }

  // What else is charged than the pages, such as page tables, is not known before: it takes a
  // second look.
  void LimitTo(KeptProgram& program, uint32_t pages) override {
    uint64_t limit_bytes = uint64_t{pages} * kPageBytes;
    for (int look = 0; look < 2; ++look) {
      cgroup_.Limit(limit_bytes);
      uint32_t resident = program.ResidentPages();
      if (resident < pages) limit_bytes += uint64_t{pages - resident} * kPageBytes;
    }
    cgroup_.Limit(limit_bytes);
  }

  void LimitEmpty(KeptProgram& program, uint32_t pages) override {
    uint64_t beside_bytes = kChargedBesideBytes +
                            uint64_t{program.options().pages} * kPageBytes / kChargedBesideDivisor;
    cgroup_.Limit(uint64_t{pages} * kPageBytes + beside_bytes);
  }

  // It takes its pages out itself.
  double CpuSecondsFor(KeptProgram& program) const override {
    return CpuSeconds(program.child().pid());
  }

  double StoredPageBytes() const override {
    ZramSwap::Usage usage = zram_.usage();
    return usage.original_bytes > 0 ? static_cast<double>(usage.held_bytes) /
                                          (static_cast<double>(usage.original_bytes) / kPageBytes)
                                    : 0;
  }

 private:
  // Programs end before their keeper, so that swap can go.
  LimitedCgroup cgroup_;
  ZramSwap zram_;
};

class NoKeeper final : public MemoryKeeper {
 public:
  std::string name() const override { return "nobody"; }
  ChildOptions Launch(std::vector<std::string> argv) const override {
    return {.argv = std::move(argv)};
  }
  void Adopt(Child&) override {}
  void TakeOut(KeptProgram&) override {}
  void LimitTo(KeptProgram&, uint32_t) override {}
  void LimitEmpty(KeptProgram&, uint32_t) override {}
  double CpuSecondsFor(KeptProgram& program) const override {
    return CpuSeconds(program.child().pid());
  }
  double StoredPageBytes() const override { return 0; }
};

}  // namespace

std::vector<std::string> SubjectArguments(const VersusProgram::Options& options) {
  return {"/proc/self/exe", "subject",
          "--pages",        absl::StrCat(options.pages),
          "--seconds",      absl::StrCat(options.seconds),
          "--settle",       absl::StrCat(options.settle_s),
          "--faults",       absl::StrCat(options.faults_per_s),
          "--threads",      absl::StrCat(options.threads),
          "--seed",         absl::StrCat(options.seed),
          "--samples",      options.samples_path};
}

void ExpectOk(const std::string& answer) {
  if (absl::StartsWith(answer, "WRONG")) throw WrongBytes(answer);
  if (answer != "ok") throw HarnessError("the program says: " + answer);
}

Measured ParseMeasured(const std::string& answer) {
  nlohmann::json parsed = nlohmann::json::parse(answer, nullptr, false);
  if (parsed.is_discarded()) ExpectOk(answer);
  if (!parsed.is_object()) throw HarnessError("the program says: " + answer);
  return {.operations = parsed.at("operations"), .elapsed_s = parsed.at("elapsed_s")};
}

std::vector<int64_t> ReadSamples(const std::string& path) {
  std::error_code failed;
  std::vector<uint32_t> samples(std::filesystem::file_size(path, failed) / sizeof(uint32_t));
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(samples.data()),
            static_cast<std::streamsize>(samples.size() * sizeof(uint32_t)));
  if (failed || !file) throw HarnessError("cannot read " + path);
  return {samples.begin(), samples.end()};
}

std::unique_ptr<MemoryKeeper> KeepByZmem(const std::string& config) {
  return std::make_unique<ZmemKeeper>(config);
}

std::unique_ptr<MemoryKeeper> KeepByZram(uint64_t bytes) {
  if (std::string why = WhyNoZram(); !why.empty()) throw HarnessError(why);
  return std::make_unique<ZramKeeper>(bytes);
}

std::unique_ptr<MemoryKeeper> KeepByNobody() { return std::make_unique<NoKeeper>(); }

std::string WhyNoZram() {
  std::string why = ZramSwap::WhyUnavailable();
  return why.empty() ? WhySwapIsUnavailable() : why;
}

KeptProgram::KeptProgram(MemoryKeeper& keeper, VersusProgram::Options options)
    : keeper_(keeper), options_(std::move(options)) {
  options_.samples_path = directory_.File("samples");
  child_ = std::make_unique<Child>(keeper.Launch(SubjectArguments(options_)));
  child_->ReadLine(kAnswerTimeout);
  keeper.Adopt(*child_);
  empty_bytes_ = static_cast<uint64_t>(ResidentBytes(child_->pid()));
}

std::string KeptProgram::Ask(const std::string& command) {
  try {
    return child_->Ask(command, kAnswerTimeout);
  } catch (const HarnessError& error) {
    throw HarnessError(absl::StrCat("a program of ", keeper_.name(), ", ", error.what()));
  }
}

Measured KeptProgram::Measure(const std::string& command) { return ParseMeasured(Ask(command)); }

void KeptProgram::Do(const std::string& command) { ExpectOk(Ask(command)); }

uint32_t KeptProgram::ResidentPages() {
  std::string answer = Ask("resident");
  uint32_t pages = 0;
  if (!absl::SimpleAtoi(answer, &pages)) throw HarnessError("the program says: " + answer);
  return pages;
}

}  // namespace zmem
