#include "libzmem/estimate/estimate.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "libzmem/codec/compressor.h"
#include "libzmem/estimate/cold_look.h"
#include "libzmem/estimate/observed_program.h"
#include "libzmem/estimate/page_grader.h"
#include "libzmem/store/page_table.h"
#include "libzmem/store/process.h"

namespace zmem {
namespace {

constexpr int64_t kMillisecondNs = 1'000'000;
// Bounds how late a display is, and how late the program's end is noticed.
constexpr int64_t kWaitNs = 200 * kMillisecondNs;

absl::Status Ended(pid_t pid) {
  return absl::AbortedError(absl::StrCat("process ", pid, " ended while it was looked at"));
}

// Waits until `age_ns` after `start_ns`.
absl::Status AwaitAge(const ObservedProgram& program, int64_t start_ns, int64_t age_ns,
                      const EstimateOptions& options, const Clock& clock) {
  int timeout_ms = 0;
  do {
    if (program.AwaitEnd(timeout_ms)) return Ended(program.pid());
    int64_t elapsed_ns = clock.now_ns() - start_ns;
    if (options.progress) options.progress(elapsed_ns, options.ages_ns.back());
    int64_t left_ns = std::min(age_ns - elapsed_ns, kWaitNs);
    timeout_ms = static_cast<int>((left_ns + kMillisecondNs - 1) / kMillisecondNs);
  } while (timeout_ms > 0);
  return absl::OkStatus();
}

EstimatedAge AgeOf(const PageSample& sample, const ColdLook& look, PagesOut out) {
  EstimatedAge age;
  age.resident_bytes = look.resident_bytes;
  age.eligible_bytes = look.eligible_bytes;
  age.out = out;
  auto original_bytes = static_cast<double>(out.original_bytes);
  auto held_bytes = static_cast<double>(out.held_bytes);
  age.cold_bytes = look.all_cold_pages() * kPageBytes + original_bytes;
  // Chunks that are out to the last page are in no sample; they cost a page of entries each too.
  uint64_t chunks = sample.chunks + out.original_bytes / kChunkBytes;
  for (size_t codec = 0; codec < CodecNames().size(); ++codec) {
    Saving saving = SavingOfPages(sample, look.cold_pages, codec);
    EstimatedAge::OfCodec result;
    result.out_bytes = saving.out_bytes + original_bytes;
    result.pool_bytes = saving.pool_bytes + held_bytes;
    result.metadata_bytes = Process::kMetadataBytes + chunks * kChunkMetadataBytes;
    result.net_bytes = saving.freed_bytes;
    result.net_bytes.value +=
        original_bytes - held_bytes - static_cast<double>(result.metadata_bytes);
    age.codecs.push_back(result);
  }
  return age;
}

Estimate Summarise(const PageSample& sample, const ColdLook& first) {
  Estimate estimate;
  estimate.resident_bytes = first.resident_bytes;
  estimate.eligible_bytes = first.eligible_bytes;
  estimate.huge_bytes = first.huge_bytes;
  estimate.eligible_pages = sample.pages;
  for (const SampledMapping& mapping : sample.mappings) {
    estimate.sampled_pages += mapping.sample.size();
  }
  estimate.any_registered = sample.any_registered;
  estimate.same_filled_share = SameFilledShare(sample);
  for (size_t codec = 0; codec < CodecNames().size(); ++codec) {
    estimate.codecs.push_back(ResultOfCodec(sample, codec));
  }
  return estimate;
}

}  // namespace

absl::StatusOr<Estimate> EstimateProcess(pid_t pid, const EstimateOptions& options,
                                         const Clock& clock) {
  absl::StatusOr<ObservedProgram> program = ObservedProgram::Open(pid);
  if (!program.ok()) return program.status();
  absl::StatusOr<std::unique_ptr<PageGrader>> grader = PageGrader::Create(options.fat_percent);
  if (!grader.ok()) return grader.status();
  absl::StatusOr<std::string> smaps = program->ReadSmaps();
  if (!smaps.ok()) return smaps.status();
  // Before the marks are cleared: reading a page through /proc/PID/mem sets its mark.
  absl::StatusOr<PageSample> sample =
      SamplePages(*program, *smaps, options.sample_pages, options.seed, **grader);
  if (!sample.ok()) return sample.status();
  Estimate estimate = Summarise(*sample, LookForCold(*smaps, *sample));
  if (estimate.sampled_pages == 0) {
    if (program->AwaitEnd(0)) return Ended(pid);
    return absl::FailedPreconditionError(
        absl::StrCat("process ", pid, " has no memory that zmem may manage"));
  }
  if (absl::Status status = program->ClearTouched(); !status.ok()) return status;
  int64_t start_ns = clock.now_ns();
  for (int64_t age_ns : options.ages_ns) {
    absl::Status status = AwaitAge(*program, start_ns, age_ns, options, clock);
    if (!status.ok()) return status;
    int64_t real_age_ns = clock.now_ns() - start_ns;
    smaps = program->ReadSmaps();
    if (!smaps.ok()) return smaps.status();
    PagesOut out = options.pages_out ? options.pages_out() : PagesOut();
    estimate.ages.push_back(AgeOf(*sample, LookForCold(*smaps, *sample), out));
    estimate.ages.back().age_ns = real_age_ns;
  }
  return estimate;
}

}  // namespace zmem
