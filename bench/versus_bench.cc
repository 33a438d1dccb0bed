#include "bench/versus_bench.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace zmem {
namespace {

// The swap of the peer's programs, over what they have.
constexpr uint64_t kSwapShare = 2;

}  // namespace

ProgramPair::ProgramPair(const std::string& zmem_config, const VersusProgram::Options& options) {
  zmem_keeper = KeepByZmem(zmem_config);
  zmem = std::make_unique<KeptProgram>(*zmem_keeper, options);
  if (!WhyNoZram().empty()) return;
  zram_keeper = KeepByZram(uint64_t{options.pages} * kPageBytes * kSwapShare);
  zram = std::make_unique<KeptProgram>(*zram_keeper, options);
}

void ProgramPair::RestartZram() {
  VersusProgram::Options options = zram->options();
  zram.reset();
  zram_keeper.reset();
  zram_keeper = KeepByZram(uint64_t{options.pages} * kPageBytes * kSwapShare);
  zram = std::make_unique<KeptProgram>(*zram_keeper, options);
}

void ProgramPair::ForEach(const std::function<void(KeptProgram&, MemoryKeeper&)>& work) {
  work(*zmem, *zmem_keeper);
  if (zram) work(*zram, *zram_keeper);
}

void ProgramPair::VerifyAndStop() {
  ForEach([](KeptProgram& program, MemoryKeeper&) { program.Do("verify"); });
  zmem.reset();
  zram.reset();
  zmem_keeper->Stop();
  zram_keeper.reset();
}

VersusBench::VersusBench(const VersusOptions& options, std::vector<const Row*> selected)
    : options_(options), selected_(std::move(selected)), start_ns_(clock_.now_ns()) {}

void VersusBench::Run(const std::vector<VersusGroup>& groups) {
  auto wanted = [this](const VersusGroup& group) {
    return std::any_of(group.cases.begin(), group.cases.end(),
                       [this](const char* name) { return Wants(name); });
  };
  for (const VersusGroup& group : groups) {
    if (!wanted(group)) continue;
    after_group_s_ = 0;
    for (const VersusGroup* later = &group + 1; later != groups.data() + groups.size(); ++later) {
      if (!wanted(*later)) continue;
      after_group_s_ += ExpectedSeconds(*later);
    }
    RunGroup(group);
  }
}

void VersusBench::RunGroup(const VersusGroup& group) {
  group_ = &group;
  repetitions_done_ = 0;
  if (std::string why = WhyUnsupported(); !why.empty()) return NotMeasured(group, why);
  Tell("setting up");
  try {
    group.run(*this);
  } catch (const HarnessError& error) {
    NotMeasured(group, error.what());
  } catch (const std::exception& error) {
    // Of the bytes read; or of what nobody foresaw.
    any_wrong_ = true;
    NotMeasured(group, absl::StrCat("FAILED: ", error.what()));
  }
}

void VersusBench::NotMeasured(const VersusGroup& group, const std::string& why) {
  std::fprintf(stderr, "versus_kernel: %s: %s\n", group.name, why.c_str());
  for (const Row* row : selected_) {
    bool is_of_group = std::any_of(group.cases.begin(), group.cases.end(),
                                   [row](const char* name) { return row->case_name() == name; });
    if (is_of_group) results_.NotMeasured(row->name, absl::StrReplaceAll(why, {{"\n", " "}}));
  }
}

bool VersusBench::Wants(absl::string_view case_name) const {
  return std::any_of(selected_.begin(), selected_.end(),
                     [case_name](const Row* row) { return row->case_name() == case_name; });
}

void VersusBench::Tell(const std::string& what) const {
  int elapsed_s = static_cast<int>(ElapsedSeconds());
  int left_s = static_cast<int>(SecondsLeft());
  std::fprintf(stderr, "versus_kernel: %d:%02d %s, %s; about %d:%02d left\n", elapsed_s / 60,
               elapsed_s % 60, group_->name, what.c_str(), left_s / 60, left_s % 60);
}

void VersusBench::Repeat(const std::function<void()>& repeat) {
  repetitions_begun_s_ = ElapsedSeconds();
  for (repetitions_done_ = 0; repetitions_done_ < options_.repetitions; ++repetitions_done_) {
    if (repetitions_done_ > 0 && IsTimeUp()) {
      results_.AddNote(absl::StrFormat("%s: the time was up after %d of %d repetitions",
                                       group_->name, repetitions_done_, options_.repetitions));
      return;
    }
    Tell(absl::StrFormat("repetition %d of %d", repetitions_done_ + 1, options_.repetitions));
    repeat();
  }
}

void VersusBench::Add(const Figures& zmem, const std::optional<Figures>& peer,
                      const Figures& bare) {
  for (const auto& [name, value] : zmem) {
    bool is_wanted = std::any_of(selected_.begin(), selected_.end(),
                                 [&name](const Row* row) { return row->name == name; });
    if (!is_wanted) continue;
    Pair pair{.zmem = value};
    if (peer && peer->contains(name)) pair.peer = peer->at(name);
    if (bare.contains(name)) pair.bare = bare.at(name);
    results_.Add(name, pair);
    if (!pair.peer) results_.NotMeasured(name, "nothing beside zmem: " + WhyNoZram());
  }
}

double VersusBench::ElapsedSeconds() const {
  return static_cast<double>(clock_.now_ns() - start_ns_) / 1e9;
}

double VersusBench::RepetitionSeconds() const {
  return (ElapsedSeconds() - repetitions_begun_s_) / repetitions_done_;
}

bool VersusBench::IsTimeUp() const {
  return ElapsedSeconds() + RepetitionSeconds() + after_group_s_ > options_.budget_s;
}

double VersusBench::ExpectedSeconds(const VersusGroup& group) const {
  return (group.setup_s + group.repetition_s * options_.repetitions) * options_.scale();
}

double VersusBench::SecondsLeft() const {
  if (repetitions_done_ > 0) {
    return after_group_s_ + RepetitionSeconds() * (options_.repetitions - repetitions_done_);
  }
  return after_group_s_ + ExpectedSeconds(*group_);
}

}  // namespace zmem
