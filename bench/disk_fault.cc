// What a page costs that comes back from the backing file, beside bare direct reads (io_uring, one
// at a time) of as many bytes from the same file, by turns in one run:
//   lone page    random touches of pages that have no neighbour to bring back with them
//   neighbours   random touches of pages whose neighbours lie beside them in the file
//   sequential   one page after the other
//   others       what refaults from the pool cost another program, alone and while a first one
//   waits
//                for the disk all the time
// The bench runs itself again as these programs (--subject). Bare reads go through a descriptor of
// their own for zmemd's data file, which has no name and is found in /proc.
//   disk_fault [--directory DIR] [--size BYTES] [--rounds N] [--seed N] [--json FILE]
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/machine.h"
#include "bench/run.h"
#include "bench/samples.h"
#include "bench/shared_array.h"
#include "libzmem/base/clock.h"
#include "libzmem/base/quantity.h"
#include "tests/harness.h"
#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr std::chrono::seconds kAnswerTimeout{120};
constexpr std::chrono::milliseconds kWriteInterval{100};
// Below this share of its pages a program has not been taken out as is to be measured.
constexpr double kLeastOut = 0.95;
constexpr double kMostTimesBare = 1.3;
// Two programs and their fault threads share the CPUs; what waited for the disk besides would take
// longer beside a program that reads from it than beside one that does not.
constexpr double kMostTimesBeside = 1.3;
constexpr size_t kBlockBytes = 4096;
// A read of zmemd's is not longer (libzmem/backing/backing_file.h), but for the blocks at its ends.
constexpr size_t kMostReadBytes = (size_t{64} << 10) + kBlockBytes;

struct Options {
  std::string directory = "/var/tmp";
  uint64_t region_bytes = uint64_t{128} << 20;
  int rounds = 7;
  uint64_t seed = 1;
  std::string json_path;
  std::string subject;  // the name of a layout
};

// How a program lays out its pages and touches them.
struct Layout {
  const char* name;
  PageContent content;  // what is random is fat, and goes to the file
  size_t fill_stride;   // pages from one that is used to the next
  size_t touch_stride;  // pages from one random touch to the nearest other one
  size_t divisor;       // its memory is the given size divided by this

  uint64_t Pages(const Options& options) const {
    return options.region_bytes / divisor >> kPageShift;
  }
};

// Far enough apart that nothing that is brought back with one page is touched as another.
constexpr Layout kNeighbours{"neighbours", PageContent::kRandom, 1, 16, 1};
constexpr Layout kLone{"lone page", PageContent::kRandom, 2, 16, 1};
// Small enough to be through before a program that waits for the disk all the time.
constexpr Layout kPool{"pool", PageContent::kCompressible, 1, 1, 8};
// The same, longer: a neighbour that never waits for the disk.
constexpr Layout kBusy{"busy", PageContent::kCompressible, 1, 1, 2};

// Times of operations that were done one after the other in `total_ns`.
nlohmann::json Summary(std::vector<int64_t> taken_ns, int64_t total_ns) {
  std::sort(taken_ns.begin(), taken_ns.end());
  return {{"count", taken_ns.size()},
          {"total_ns", total_ns},
          {"per_s", static_cast<double>(taken_ns.size()) * 1e9 / static_cast<double>(total_ns)},
          {"p50", Percentile(taken_ns, 50)},
          {"p90", Percentile(taken_ns, 90)},
          {"p99", Percentile(taken_ns, 99)}};
}

// A program whose pages are taken out. What it needs for measuring is in shared memory, which is
// never taken.
class Subject {
 public:
  Subject(const Layout& layout, size_t pages, uint64_t seed)
      : layout_(layout),
        region_(pages, layout.content),
        order_(SharedArray<uint32_t>(pages)),
        taken_ns_(SharedArray<uint32_t>(pages)),
        resident_(SharedArray<unsigned char>(pages)),
        random_(seed) {
    for (size_t page = 0; page < pages; page += layout_.fill_stride) {
      FillPage(region_.page(page), page, kVersion, layout_.content);
    }
  }

  int Serve() {
    return ServeCommands({
        {"random", [this] { return Measure(layout_.touch_stride, true); }},
        {"sequential", [this] { return Measure(layout_.fill_stride, false); }},
        {"share out", [this] { return absl::StrCat(ShareOut()); }},
    });
  }

 private:
  static constexpr uint64_t kVersion = 1;

  // Puts the pages that are to be touched, and are out, into order_. Returns how many there are.
  size_t Arrange(size_t stride, bool random) {
    mincore(region_.page(0), region_.pages() * kPageBytes, resident_);
    size_t out = 0;
    for (uint32_t page = 0; page < region_.pages(); page += static_cast<uint32_t>(stride)) {
      if ((resident_[page] & 1) == 0) order_[out++] = page;
    }
    if (random) std::shuffle(order_, order_ + out, random_);
    return out;
  }

  double ShareOut() {
    size_t used = region_.pages() / layout_.fill_stride;
    return static_cast<double>(Arrange(layout_.fill_stride, false)) / static_cast<double>(used);
  }

  // Touches pages once that are out, after a line that says so, and tells what it cost, as JSON.
  std::string Measure(size_t stride, bool random) {
    size_t out = Arrange(stride, random);
    Answer("begun");
    MonotonicClock clock;
    int64_t start_ns = clock.now_ns();
    for (size_t i = 0; i < out; ++i) {
      const volatile std::byte* page = region_.page(order_[i]);
      int64_t before_ns = clock.now_ns();
      static_cast<void>(*page);
      taken_ns_[i] = static_cast<uint32_t>(clock.now_ns() - before_ns);
    }
    int64_t end_ns = clock.now_ns();
    for (size_t i = 0; i < out; ++i) {
      uint32_t page = order_[i];
      if (!VerifyPage(region_.page(page), page, kVersion)) return region_.Describe(page, kVersion);
    }
    nlohmann::json result =
        Summary(std::vector<int64_t>(taken_ns_, taken_ns_ + out), end_ns - start_ns);
    result["start_ns"] = start_ns;
    result["end_ns"] = end_ns;
    return result.dump();
  }

  const Layout layout_;
  PatternRegion region_;
  uint32_t* order_;
  uint32_t* taken_ns_;
  unsigned char* resident_;
  std::mt19937_64 random_;
};

// A directory on a disk, gone with its object.
class DiskDirectory {
 public:
  explicit DiskDirectory(const std::string& parent)
      : path_(absl::StrCat(parent, "/zmem-disk-fault.XXXXXX")) {
    constexpr auto kTmpfs = 0x01021994;  // TMPFS_MAGIC in linux/magic.h
    if (mkdtemp(path_.data()) == nullptr) throw ErrnoError("cannot make " + path_);
    struct statfs info {};
    bool is_memory = statfs(path_.c_str(), &info) == 0 && info.f_type == kTmpfs;
    if (!is_memory) return;
    std::filesystem::remove(path_);
    throw HarnessError(parent + " is not on a disk; take another --directory");
  }
  ~DiskDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  DiskDirectory(const DiskDirectory&) = delete;
  DiskDirectory& operator=(const DiskDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Reads zmemd's data file past zmemd: direct, into one registered buffer, one read at a time.
class BareReader {
 public:
  BareReader(pid_t zmemd, const std::string& directory, uint64_t seed)
      : file_(OpenDataFile(zmemd, directory)), random_(seed) {
    void* buffer = mmap(nullptr, kMostReadBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (buffer == MAP_FAILED) throw ErrnoError("mmap");
    buffer_ = {.iov_base = buffer, .iov_len = kMostReadBytes};
    // The cheapest ring there is for a thread that submits and waits.
    Check(io_uring_queue_init(1, &ring_, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN),
          "io_uring_queue_init");
    int file = file_.get();
    Check(io_uring_register_files(&ring_, &file, 1), "io_uring_register_files");
    Check(io_uring_register_buffers(&ring_, &buffer_, 1), "io_uring_register_buffers");
  }
  ~BareReader() {
    if (ring_.ring_fd >= 0) io_uring_queue_exit(&ring_);
    if (buffer_.iov_base != nullptr) munmap(buffer_.iov_base, buffer_.iov_len);
  }
  BareReader(const BareReader&) = delete;
  BareReader& operator=(const BareReader&) = delete;

  // `count` reads of `bytes` (whole blocks) each where the file has data: at random places, or each
  // behind the one before.
  nlohmann::json ThroughRing(size_t count, size_t bytes, bool random) {
    return Measure(Places(count, bytes, random), [&](uint64_t offset) {
      io_uring_sqe* request = io_uring_get_sqe(&ring_);
      io_uring_prep_read_fixed(request, 0, buffer_.iov_base, static_cast<unsigned>(bytes), offset,
                               0);
      io_uring_sqe_set_flags(request, IOSQE_FIXED_FILE);
      Check(io_uring_submit_and_wait(&ring_, 1), "io_uring_submit_and_wait");
      io_uring_cqe* completion;
      Check(io_uring_wait_cqe(&ring_, &completion), "io_uring_wait_cqe");
      int got = completion->res;
      io_uring_cqe_seen(&ring_, completion);
      return got == static_cast<int>(bytes);
    });
  }

  // The same by pread, at random places.
  nlohmann::json ThroughPread(size_t count, size_t bytes) {
    return Measure(Places(count, bytes, true), [&](uint64_t offset) {
      return pread(file_.get(), buffer_.iov_base, bytes, static_cast<off_t>(offset)) ==
             static_cast<ssize_t>(bytes);
    });
  }

 private:
  static void Check(int result, const std::string& what) {
    errno = -result;
    if (result < 0) throw ErrnoError(what);
  }

  // The only file of zmemd's that has no name and lies beside `directory`.
  static UniqueFd OpenDataFile(pid_t zmemd, const std::string& directory) {
    struct stat beside {};
    CheckErrno(stat(directory.c_str(), &beside), "stat " + directory);
    for (const auto& entry :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", zmemd, "/fd"))) {
      struct stat info {};
      if (stat(entry.path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
      if (info.st_dev != beside.st_dev || info.st_nlink != 0 || info.st_size == 0) continue;
      UniqueFd file(open(entry.path().c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
      if (!file.valid()) throw ErrnoError("open " + entry.path().string());
      return file;
    }
    throw HarnessError("zmemd has no data file open beside " + directory);
  }

  // Offsets of places for reads that do not overlap, each within data: the disk is not asked for
  // holes.
  std::vector<uint64_t> Places(size_t count, size_t bytes, bool random) {
    std::vector<uint64_t> places;
    off_t end = 0;
    for (off_t start = 0; (start = lseek(file_.get(), end, SEEK_DATA)) >= 0;) {
      end = lseek(file_.get(), start, SEEK_HOLE);
      for (auto at = static_cast<uint64_t>(start); at + bytes <= static_cast<uint64_t>(end);
           at += bytes) {
        places.push_back(at);
      }
    }
    if (places.empty()) throw HarnessError("zmemd's data file is empty");
    if (random) std::shuffle(places.begin(), places.end(), random_);
    places.resize(std::min(places.size(), count));
    return places;
  }

  static nlohmann::json Measure(const std::vector<uint64_t>& places,
                                const std::function<bool(uint64_t)>& read) {
    MonotonicClock clock;
    std::vector<int64_t> taken_ns;
    taken_ns.reserve(places.size());
    int64_t start_ns = clock.now_ns();
    for (uint64_t place : places) {
      int64_t before_ns = clock.now_ns();
      if (!read(place)) throw HarnessError("cannot read zmemd's data file");
      taken_ns.push_back(clock.now_ns() - before_ns);
    }
    return Summary(taken_ns, clock.now_ns() - start_ns);
  }

  const UniqueFd file_;
  std::mt19937_64 random_;
  io_uring ring_{.ring_fd = -1};
  iovec buffer_{};
};

// What each round measured of one thing.
using Runs = std::vector<nlohmann::json>;

double Middle(const Runs& runs, const char* field) {
  std::vector<double> values;
  for (const nlohmann::json& run : runs) values.push_back(run.at(field));
  return Median(values);
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        directory_(options.directory),
        daemon_({.config = Config()}),
        neighbours_(Start(kNeighbours)),
        lone_(Start(kLone)),
        pool_(Start(kPool)),
        busy_(Start(kBusy)) {}

  void Run() {
    TakeOut(*pool_);
    TakeOut(*busy_);
    TakeOut(*neighbours_);
    TakeOut(*lone_);
    BareReader bare(daemon_.pid(), directory_.path(), options_.seed);
    for (int round = 0; round < options_.rounds; ++round) {
      MeasureRandom(*lone_, kLone, bare);
      MeasureRandom(*neighbours_, kNeighbours, bare);
      MeasureSequential(bare);
      MeasureOthers();
    }
    daemon_.Stop();
  }

  nlohmann::json Report() const {
    PrintMachine();
    std::printf(
        "input     programs of %s, seed %llu; backing file in %s\n"
        "runs      %d by turns; each figure is the median of the runs\n\n",
        FormatBytes(options_.region_bytes).c_str(), static_cast<unsigned long long>(options_.seed),
        options_.directory.c_str(), options_.rounds);
    PrintReads();
    PrintSequential();
    PrintOthers();
    return {{"benchmark", "disk_fault"},
            {"machine", Machine()},
            {"region_bytes", options_.region_bytes},
            {"seed", options_.seed},
            {"rounds", options_.rounds},
            {"runs", runs_}};
  }

 private:
  std::string Config() const {
    return absl::StrCat(kEvictByHand, "[backing]\npath=", directory_.path(),
                        "/file\nsize=", 4 * options_.region_bytes, "\n");
  }

  std::unique_ptr<Child> Start(const Layout& layout) const {
    auto child = std::make_unique<Child>(Managed(
        daemon_, {"/proc/self/exe", "--subject", layout.name, "--size",
                  absl::StrCat(options_.region_bytes), "--seed", absl::StrCat(options_.seed)}));
    child->ReadLine(kAnswerTimeout);
    WaitAttached(daemon_, *child);
    return child;
  }

  // Ends when everything is on the disk but a last segment that is not full. What the file has no
  // buffer for while the disk is slow stays with its program, and is taken out again.
  void TakeOut(Child& child) const {
    WaitUntil("the pages to be taken out", kAnswerTimeout, [&] {
      daemon_.Evict(child.pid());
      double share_out = 0;
      std::string answer = child.Ask("share out", kAnswerTimeout);
      if (!absl::SimpleAtod(answer, &share_out)) throw HarnessError("the subject says: " + answer);
      return share_out >= kLeastOut;
    });
    int64_t written = -1;
    WaitUntil(
        "the backing file to be written", kAnswerTimeout,
        [&] {
          int64_t before = std::exchange(written, Written());
          return written == before;
        },
        kWriteInterval);
  }

  int64_t Written() const { return daemon_.Status().at("backing").at("bytes_written"); }

  static nlohmann::json Result(Child& child) {
    std::string answer = child.ReadLine(kAnswerTimeout);
    nlohmann::json run = nlohmann::json::parse(answer, nullptr, false);
    if (run.is_discarded()) throw HarnessError("the subject says: " + answer);
    return run;
  }

  static void Begin(Child& child, const std::string& order) {
    std::string answer = child.Ask(order, kAnswerTimeout);
    if (answer != "begun") throw HarnessError("the subject says: " + answer);
  }

  // Has `child` touch its pages; the result says also how many reads that took, and of how many
  // bytes each.
  nlohmann::json Touch(Child& child, const std::string& order) const {
    nlohmann::json before = daemon_.Status().at("backing");
    int64_t faults_before = daemon_.Process(child.pid()).at("disk_faults");
    Begin(child, order);
    nlohmann::json run = Result(child);
    nlohmann::json after = daemon_.Status().at("backing");
    int64_t reads = daemon_.Process(child.pid()).at("disk_faults").get<int64_t>() - faults_before;
    if (reads == 0) throw HarnessError("no page came from the disk");
    double bytes = after.at("bytes_read").get<double>() - before.at("bytes_read").get<double>();
    run["reads"] = reads;
    run["read_bytes"] = bytes / static_cast<double>(reads);
    return run;
  }

  static size_t WholeBlocks(double bytes) {
    size_t blocks = static_cast<size_t>(bytes / kBlockBytes + 0.5);
    return std::clamp<size_t>(blocks, 1, kMostReadBytes / kBlockBytes) * kBlockBytes;
  }

  void MeasureRandom(Child& child, const Layout& layout, BareReader& bare) {
    std::string name = layout.name;
    nlohmann::json run = Touch(child, "random");
    size_t count = run.at("count");
    if (static_cast<double>(run.at("reads").get<size_t>()) <
        kLeastOut * static_cast<double>(count)) {
      throw HarnessError("touches were not from the disk");
    }
    size_t bytes = WholeBlocks(run.at("read_bytes"));
    runs_[name].push_back(run);
    runs_[name + ", bare"].push_back(bare.ThroughRing(count, bytes, true));
    runs_[name + ", pread"].push_back(bare.ThroughPread(count, bytes));
    TakeOut(child);
  }

  // Random touches have torn apart what was stored in one go; all of it is stored again before.
  void MeasureSequential(BareReader& bare) {
    Touch(*neighbours_, "sequential");
    TakeOut(*neighbours_);
    nlohmann::json run = Touch(*neighbours_, "sequential");
    nlohmann::json read =
        bare.ThroughRing(run.at("reads"), WholeBlocks(run.at("read_bytes")), false);
    // As many pages from as many reads.
    double pages_per_read = run.at("count").get<double>() / run.at("reads").get<double>();
    read["per_s"] = read.at("per_s").get<double>() * pages_per_read;
    runs_["sequential"].push_back(run);
    runs_["sequential, bare"].push_back(read);
    TakeOut(*neighbours_);
  }

  void MeasureOthers() {
    Begin(*pool_, "random");
    runs_["others, alone"].push_back(Result(*pool_));
    TakeOut(*pool_);
    MeasureBeside(*busy_, kBusy);
    MeasureBeside(*neighbours_, kNeighbours);
  }

  // What pool_ measures while another program touches its pages.
  void MeasureBeside(Child& other, const Layout& layout) {
    Begin(other, "random");
    Begin(*pool_, "random");
    nlohmann::json run = Result(*pool_);
    auto end_ns = Result(other).at("end_ns").get<int64_t>();
    int64_t start_ns = run.at("start_ns");
    int64_t both_ns = std::min(run.at("end_ns").get<int64_t>(), end_ns) - start_ns;
    run["share_beside"] =
        static_cast<double>(both_ns) / static_cast<double>(run.at("total_ns").get<int64_t>());
    runs_[absl::StrCat("others, beside ", layout.name)].push_back(run);
    TakeOut(*pool_);
    TakeOut(other);
  }

  static void PrintRow(const std::string& name, const Runs& runs, double read_bytes,
                       const std::string& comparison) {
    std::string size = read_bytes == 0 ? "" : FormatBytes(WholeBlocks(read_bytes));
    std::printf("%-38s %10s %9.1f %9.1f %9.1f %10.0f  %s\n", name.c_str(), size.c_str(),
                Middle(runs, "p50") / 1e3, Middle(runs, "p90") / 1e3, Middle(runs, "p99") / 1e3,
                Middle(runs, "per_s"), comparison.c_str());
  }

  static const char* Verdict(bool met) { return met ? "met" : "missed"; }

  void PrintReads() const {
    std::printf("%-38s %10s %9s %9s %9s %10s  %s\n", "", "one read", "p50 µs", "p90 µs", "p99 µs",
                "per s", "p50, target");
    for (const Layout& layout : {kLone, kNeighbours}) {
      std::string name = layout.name;
      const Runs& refaults = runs_.at(name);
      double bytes = Middle(refaults, "read_bytes");
      double times = Middle(refaults, "p50") / Middle(runs_.at(name + ", bare"), "p50");
      PrintRow("refault, " + name, refaults, bytes,
               absl::StrFormat("%.2f × bare, %.1f %s", times, kMostTimesBare,
                               Verdict(times <= kMostTimesBare)));
      PrintRow("  bare read, io_uring", runs_.at(name + ", bare"), bytes, "");
      PrintRow("  bare read, pread", runs_.at(name + ", pread"), bytes, "");
    }
  }

  void PrintSequential() const {
    const Runs& touches = runs_.at("sequential");
    double bytes = Middle(touches, "read_bytes");
    double share = Middle(touches, "per_s") / Middle(runs_.at("sequential, bare"), "per_s");
    std::printf("\n%-38s %10s %20s\n", "", "one read", "pages/s");
    std::printf("%-38s %10s %20.0f  %.2f × bare\n", "sequential touches",
                FormatBytes(WholeBlocks(bytes)).c_str(), Middle(touches, "per_s"), share);
    std::printf("%-38s %10s %20.0f\n\n", "  bare reads, io_uring",
                FormatBytes(WholeBlocks(bytes)).c_str(),
                Middle(runs_.at("sequential, bare"), "per_s"));
  }

  void PrintOthers() const {
    const Runs& busy = runs_.at("others, beside busy");
    const Runs& disk = runs_.at("others, beside neighbours");
    double times = Middle(disk, "p50") / Middle(busy, "p50");
    std::printf("%-38s %10s %9s %9s %9s %10s  %s\n", "another program's refaults", "", "p50 µs",
                "p90 µs", "p99 µs", "per s", "p50, target");
    PrintRow("  alone", runs_.at("others, alone"), 0, "");
    PrintRow("  beside refaults from the pool", busy, 0, "");
    PrintRow("  beside refaults from the disk", disk, 0,
             absl::StrFormat("%.2f × beside the pool's, %.1f %s", times, kMostTimesBeside,
                             Verdict(times <= kMostTimesBeside)));
    std::printf("%.0f %% and %.0f %% of it while the other one ran\n",
                Middle(busy, "share_beside") * 100, Middle(disk, "share_beside") * 100);
  }

  const Options options_;
  const DiskDirectory directory_;
  Daemon daemon_;
  const std::unique_ptr<Child> neighbours_;
  const std::unique_ptr<Child> lone_;
  const std::unique_ptr<Child> pool_;
  const std::unique_ptr<Child> busy_;
  std::map<std::string, Runs> runs_;
};

int Main(const Options& options) {
  for (const Layout& layout : {kNeighbours, kLone, kPool, kBusy}) {
    if (options.subject != layout.name) continue;
    return Subject(layout, layout.Pages(options), options.seed).Serve();
  }
  return RunBench("disk_fault", [&] {
    Bench bench(options);
    bench.Run();
    WriteJson(options.json_path, bench.Report());
  });
}

// For CLI11: puts the bytes of a size with a unit in its place, or says what is wrong with it.
std::string ToBytes(std::string& text) {
  absl::StatusOr<uint64_t> bytes = ParseBytes(text);
  if (!bytes.ok()) return std::string(bytes.status().message());
  text = absl::StrCat(*bytes);
  return "";
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  zmem::Options options;
  CLI::App app("Measures refaults from the backing file, beside bare reads of it.");
  app.add_option("--directory", options.directory, "on a disk; the backing file is made in it")
      ->check(CLI::ExistingDirectory);
  app.add_option("--size", options.region_bytes, "of a program's memory (128M); the file is 4 ×")
      ->transform(CLI::Validator(&zmem::ToBytes, "BYTES"))
      ->check(CLI::Range(uint64_t{16} << 20, uint64_t{1} << 40));
  app.add_option("--rounds", options.rounds, "of everything")->check(CLI::Range(1, 1000));
  app.add_option("--seed", options.seed, "of the order in which pages are touched");
  app.add_option("--json", options.json_path, "also write the results here");
  app.add_option("--subject", options.subject, "be a program that is measured")->group("");
  CLI11_PARSE(app, argc, argv);
  return zmem::Main(options);
}
