#include "zmemd/tables.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "zmemd/progress_bar.h"

namespace zmem {
namespace {

using nlohmann::json;

json Process() {
  return json::parse(R"({
    "pid": 1234, "comm": "redis-server", "state": "managed", "algorithm": "lz4",
    "resident_bytes": 12582912, "stored_pages": 105548, "staged_pages": 12,
    "original_bytes": 432327884, "compressed_bytes": 103190000, "held_bytes": 108210000,
    "same_filled_pages": 1234, "disk_pages": 56, "disk_bytes": 204800, "faults_total": 12345,
    "limit_bytes": 536870912, "stall_ppm": 1234, "stall_target_percent": 0.5,
    "fault_latency_ns": {"p50": 3310, "p99": 10200, "max": 1204000}})");
}

TEST(Table, AlignsNumbersToTheRightAndWordsToTheLeft) {
  Table table({{"N"}, {"NAME", Table::Align::kLeft}, {"X"}, {"LAST", Table::Align::kLeft}});
  table.AddRow({"1234", "a", "3.31µs", "z"});
  table.AddRow({"5", "longer", "1ns"});
  EXPECT_EQ(table.Render(),
            "   N  NAME         X  LAST\n"
            "1234  a       3.31µs  z\n"
            "   5  longer     1ns\n");
}

TEST(Printable, EscapesWhatCouldSteerATerminalOrMislead) {
  EXPECT_EQ(Printable("redis-server"), "redis-server");
  EXPECT_EQ(Printable("wörker 日本"), "wörker 日本");
  EXPECT_EQ(Printable("a\x1b[31m\n\t\x7f"), "a\\x1b[31m\\x0a\\x09\\x7f");
  EXPECT_EQ(Printable(absl::string_view("\0z", 2)), "\\x00z");
  EXPECT_EQ(Printable("\u009b1m"), "\\xc2\\x9b1m");
  EXPECT_EQ(Printable("\u202egnp"), "\\xe2\\x80\\xaegnp");
  EXPECT_EQ(Printable("\u200b\ufeff"), "\\xe2\\x80\\x8b\\xef\\xbb\\xbf");
}

TEST(Printable, EscapesWhatIsNotUtf8) {
  EXPECT_EQ(Printable("\xff\x80z"), "\\xff\\x80z");
  EXPECT_EQ(Printable("\xc3"), "\\xc3");                             // cut short
  EXPECT_EQ(Printable("\xc0\xaf"), "\\xc0\\xaf");                    // overlong
  EXPECT_EQ(Printable("\xe0\x80\x9b"), "\\xe0\\x80\\x9b");           // overlong
  EXPECT_EQ(Printable("\xed\xa0\x80"), "\\xed\\xa0\\x80");           // surrogate
  EXPECT_EQ(Printable("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");  // beyond Unicode
}

TEST(FormatCount, SeparatesThousands) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
}

TEST(RenderProcesses, HasZramctlsColumns) {
  json idle = {{"pid", 7}, {"comm", "evil\x1b[31m"}, {"algorithm", "lz4"}};
  EXPECT_EQ(
      RenderProcesses(json::array({Process(), idle})),
      " PID  COMM          ALGORITHM     RSS   LIMIT    DATA   COMPR   TOTAL  RATIO  SAME  DISK"
      "  FAULTS     P50      P99     STALL\n"
      "1234  redis-server  lz4        12.00M  512.0M  412.3M  98.41M  103.2M   4.00  1234    56"
      "   12345  3.31µs  10.20µs  0.12/0.5\n"
      "   7  evil\\x1b[31m  lz4            0B       -      0B      0B      0B      -     0     0"
      "       0       -        -    0.00/0\n");
}

TEST(RenderProcesses, LeavesOutWhatANarrowTerminalHasNoPlaceFor) {
  json processes = json::array({Process()});
  std::string wide = RenderProcesses(processes);
  size_t width = wide.find('\n');
  EXPECT_EQ(RenderProcesses(processes, width), wide);
  std::string narrow = RenderProcesses(processes, width - 1);
  EXPECT_FALSE(absl::StrContains(narrow, "STALL")) << narrow;
  EXPECT_TRUE(absl::StrContains(narrow, "LIMIT")) << narrow;
  EXPECT_TRUE(absl::EndsWith(narrow, "3.31µs  10.20µs\n")) << narrow;
}

TEST(RenderProcess, SaysWhatIsPromisedAndHowItIsKept) {
  json process = json::parse(R"({"pid": 7, "limit_bytes": 536870912, "limit_source": "owner",
    "max_overshoot_bytes": 1048576, "mode": "pressure", "stall_target_percent": 0.5,
    "stall_ppm": 1234, "stall_ns": 12500000, "rate_pages_per_s": 4096, "rate_raises": 3,
    "rate_cuts": 2, "probe_faults": 10, "probe_cost_ns": 170000, "cold_pages": 512,
    "cold_age_ns": 30000000000})");
  EXPECT_EQ(RenderProcess(process),
            "pid          7\n"
            "ratio        -\n"
            "limit        512.0 MiB, set by owner\n"
            "  overshoot  1.00 MiB at most so far\n"
            "mode         pressure\n"
            "stall        0.12 % of the time, target 0.5 %; 12.50 ms in all\n"
            "  rate       4,096 pages/s, raised 3 times, cut 2 times\n"
            "  probes     10 faults, which cost 170.0 µs\n"
            "cold pages   512 pages (2.00 MiB), unwanted for 30.00 s\n");
  process["limit_bytes"] = 0;
  process["limit_source"] = "none";
  EXPECT_TRUE(absl::StrContains(RenderProcess(process), "limit        none\n"));
  process["limit_source"] = "root";
  EXPECT_TRUE(absl::StrContains(RenderProcess(process), "limit        none, set by root\n"));
}

TEST(RenderProcesses, SaysSoWhenThereAreNone) {
  EXPECT_EQ(RenderProcesses(json::array()),
            "no managed process; start one with LD_PRELOAD=libzmem.so PROGRAM\n");
}

TEST(RenderProcess, ShowsWhateverTheDaemonTells) {
  json process = Process();
  for (const char* promise : {"limit_bytes", "stall_ppm", "stall_target_percent"}) {
    process.erase(promise);
  }
  process["stall_budget_percent"] = 1.5;
  process["cold_age_ns"] = 30'000'000'000;
  process["ranges"] = {1, 2};
  EXPECT_EQ(RenderProcess(process),
            "pid                   1234\n"
            "comm                  redis-server\n"
            "state                 managed\n"
            "algorithm             lz4\n"
            "resident              12.00 MiB\n"
            "original              412.3 MiB\n"
            "compressed            98.41 MiB\n"
            "held                  103.2 MiB\n"
            "ratio                 4.00\n"
            "stored pages          105,548\n"
            "staged pages          12\n"
            "same filled pages     1,234\n"
            "disk pages            56\n"
            "disk                  200.0 KiB\n"
            "faults total          12,345\n"
            "fault latency         p50 3.31 µs, p99 10.20 µs, max 1.20 ms\n"
            "cold age              30.00 s\n"
            "ranges                [1,2]\n"
            "stall budget percent  1.5\n");
}

TEST(RenderStatus, SumsUp) {
  json status = json::parse(R"({"schema": 1,
    "pool": {"compressor": "lz4", "held_bytes": 108210000, "compressed_bytes": 103190000,
             "original_bytes": 432327884, "limit_bytes": 3350000000, "objects": 105548,
             "same_filled_pages": 1234, "accept_bytes": 3015000000,
             "incompressible_rejects": 1, "pool_full_rejects": 1700, "limit_rejects": 200,
             "compaction_rounds": 3, "compacted_bytes": 4096, "reclaimable_bytes": 8192,
             "recompressed_objects": 5000, "recompressed_bytes": 1048576,
             "recompress_cpu_ns": 125000000, "clean_pages": 1000, "clean_bytes": 524288,
             "clean_reused_pages": 20000, "clean_changed_pages": 3},
    "metadata_bytes": 1290000, "faults_total": 12345,
    "fault_latency_ns": {"p50": 3310, "p99": 10200, "max": 1204000}})");
  status["processes"] = json::array({Process()});
  EXPECT_EQ(RenderStatus(status),
            "processes        1 managed\n"
            "compressor       lz4\n"
            "stored           412.3 MiB of program memory in 105,548 objects\n"
            "compressed       98.41 MiB\n"
            "held             103.2 MiB, 3.2 % of the pool's limit of 3.12 GiB\n"
            "metadata         1.23 MiB\n"
            "ratio            4.00 (stored in memory to held)\n"
            "same-filled      1,234 pages (4.82 MiB)\n"
            "faults           12,345\n"
            "fault latency    p50 3.31 µs, p99 10.20 µs, max 1.20 ms\n"
            "refused by pool  200 at its limit, 1,500 after that until it had shrunk to 2.81 GiB\n"
            "incompressible   1 page left in programs\n"
            "compaction       3 rounds gave back 4.00 KiB; 8.00 KiB to be gained now\n"
            "recompressed     5,000 objects, 1.00 MiB smaller, in 125.0 ms of CPU time\n"
            "clean pages      1,000 kept in 512.0 KiB; 20,000 went out again unchanged, 3 changed\n"
            "backing file     none\n");
}

TEST(RenderStatus, HasASectionForTheBackingFile) {
  json status = json::parse(R"({"pool": {"original_bytes": 81920, "held_bytes": 16384},
    "backing": {"disk_pages": 10,
    "path": "/var/lib/zmem/backing", "size_bytes": 1073741824, "held_bytes": 107374182,
    "live_bytes": 52428800, "objects": 20000, "bytes_read": 8192, "reads": 3,
    "bytes_written": 62914560, "writes": 22000, "daily_left_bytes": 1048576, "fat_pages": 1,
    "spilled_pages": 2, "written_back_pages": 3, "busy_rejects": 4, "full_rejects": 5,
    "limit_rejects": 6, "suspended_rejects": 7, "read_errors": 8, "write_errors": 9,
    "checksum_errors": 10, "suspended": true}})");
  std::string text = RenderStatus(status);
  EXPECT_TRUE(absl::StrContains(text, "ratio            2.50 (stored in memory")) << text;
  EXPECT_EQ(text.substr(text.find("backing file")),
            "backing file     /var/lib/zmem/backing  WRITING IS SUSPENDED\n"
            "  size           1.00 GiB\n"
            "  used           102.4 MiB, 10.0 %\n"
            "  live           50.00 MiB in 20,000 objects\n"
            "  read           8.00 KiB, 3 objects\n"
            "  written        60.00 MiB, 22,000 objects; 1.00 MiB left for the day\n"
            "  came as        1 page too fat, 2 past a full pool, 3 from the pool\n"
            "  refused        4 busy, 5 full, 6 over the daily limit, 7 suspended\n"
            "  errors         8 reading, 9 writing, 10 wrong checksums\n");
  status["backing"]["suspended"] = false;
  status["backing"]["daily_left_bytes"] = nullptr;
  text = RenderStatus(status);
  EXPECT_FALSE(absl::StrContains(text, "SUSPENDED"));
  EXPECT_FALSE(absl::StrContains(text, "left for the day"));
}

TEST(RenderStatus, TellsWhetherTheHostIsShortOfMemory) {
  json status = json::parse(R"({"host": {"reclaim_mode": "pressure",
    "available_bytes": 1073741824, "low_bytes": 2147483648, "high_bytes": 3221225472,
    "is_short": true, "shortages": 2, "watches_stalls": true, "stall_events": 1234,
    "squeezed_processes": 3, "asked_pages": 200000, "wanted_pages": 5000}})");
  std::string text = RenderStatus(status);
  EXPECT_EQ(text.substr(text.find("host memory")),
            "host memory      1.00 GiB available; SHORT, until 3.00 GiB\n"
            "reclaim mode     pressure; 3 processes give pages when the host is short\n"
            "pressure         short 2 times, stalls told 1,234 times; 200,000 pages asked for, "
            "5,000 still\n");
  status["host"]["is_short"] = false;
  EXPECT_TRUE(absl::StrContains(RenderStatus(status), "1.00 GiB available; short below 2.00 GiB"));
}

TEST(RenderHistogram, HasABarForEverySizeOfBothTiers) {
  json histogram = {{"row_bytes", 2048},
                    {"same_filled_pages", 100},
                    {"pool_pages", {299, 1}},
                    {"disk_pages", {0, 600}}};
  EXPECT_EQ(RenderHistogram(histogram),
            "stored       1,000 pages (3.91 MiB)\n"
            "same-filled  100 pages (400.0 KiB), 10.0 %\n"
            "in the pool  300 pages (1.17 MiB), 30.0 %\n"
            "on disk      600 pages (2.34 MiB), 60.0 %\n"
            "\nin the pool, by compressed size\n"
            "    BYTES  PAGES   SHARE\n"
            "   1-2048    299  29.9 %  ########################################\n"
            "2049-4096      1   0.1 %  #\n"
            "\non disk, by compressed size\n"
            "    BYTES  PAGES   SHARE\n"
            "   1-2048      0   0.0 %\n"
            "2049-4096    600  60.0 %  ########################################\n");
  EXPECT_EQ(RenderHistogram({{"row_bytes", 256}, {"pool_pages", {0}}, {"disk_pages", {0}}}),
            "stored       0 pages (0 B)\n"
            "same-filled  0 pages (0 B)\n"
            "in the pool  0 pages (0 B)\n"
            "on disk      0 pages (0 B)\n");
}

TEST(RenderResults, AreOneLine) {
  json evicted = {{"evicted_pages", 98304},
                  {"stored_pages", 98000},
                  {"staged_pages", 304},
                  {"resident_bytes", 12582912},
                  {"skipped_pages", 128}};
  EXPECT_EQ(RenderEvicted(7, evicted),
            "7: 98,304 pages (384.0 MiB) taken out, 128 skipped; now 98,000 stored, 304 staged, "
            "12.00 MiB resident\n");
  EXPECT_EQ(RenderDrained(7, {{"restored_pages", 1}}),
            "7: 1 page (4.00 KiB) put back; it is no longer managed\n");
  EXPECT_EQ(RenderThawed(7, {{"restored_pages", 2}}),
            "7: 2 pages (8.00 KiB) put back; nothing is taken out until zmemctl freeze 7\n");
  EXPECT_EQ(RenderFrozen(7), "7: pages are taken out again\n");
  EXPECT_EQ(RenderVersion({{"version", "0.1"}, {"protocol", 1}}), "zmemd 0.1, protocol 1\n");
}

TEST(RenderLimit, SaysWhatCountsFromNowOn) {
  json result = {
      {"limit_bytes", 536870912}, {"resident_bytes", 1073741824}, {"must_stay_bytes", 3145728}};
  EXPECT_EQ(RenderLimit(7, result),
            "7: limit 512.0 MiB from now on, 1.00 GiB resident; 3.00 MiB must stay\n");
  result["limit_bytes"] = 0;
  EXPECT_EQ(RenderLimit(7, result),
            "7: no limit from now on, 1.00 GiB resident; 3.00 MiB must stay\n");
}

TEST(RenderReloaded, SaysWhatChangesAndWhatDoesNot) {
  json result = {{"files", json::array()}, {"processes", 3}};
  EXPECT_EQ(RenderReloaded(result),
            "read       no file: everything has its default\nprocesses  3 managed\n");
  result["files"] = {"/etc/zmem/zmemd.conf", "/etc/zmem/zmemd.conf.d/a.conf"};
  result["let_go"] = {12, 1345};
  result["overwritten"] = {"max_pool_size"};
  result["needs_restart"] = {"[backing] path", "[backing] size"};
  EXPECT_EQ(RenderReloaded(result),
            "read                           /etc/zmem/zmemd.conf, /etc/zmem/zmemd.conf.d/a.conf\n"
            "processes                      3 managed\n"
            "let go, not to be managed      12, 1345\n"
            "no longer as zmemctl set them  max_pool_size\n"
            "needs a restart of zmemd       [backing] path, [backing] size\n");
}

TEST(RenderSet, SaysWhatBecomesOfWhatIsHeldAboveTheLimit) {
  json result = {{"key", "max_pool_size"},
                 {"value", "64M"},
                 {"held_bytes", 126353408},
                 {"limit_bytes", 67108864},
                 {"accept_bytes", 60397920}};
  auto text = [&](const char* shrinks_by) {
    result["shrinks_by"] = shrinks_by;
    return RenderSet(result);
  };
  const std::string held =
      "max_pool_size=64M: the pool holds 120.5 MiB of its limit of 64.00 MiB; ";
  const std::string accepts = "once full it accepts pages again at 57.60 MiB\n";
  EXPECT_EQ(text("nothing"), held + accepts);
  EXPECT_EQ(text("writeback"),
            held + "what is above it is being written back to the backing file; " + accepts);
  EXPECT_EQ(text("suspended writeback"), held +
                                             "writing to the backing file is suspended, what is "
                                             "above it waits for that; " +
                                             accepts);
  EXPECT_EQ(text("refaults"),
            held + "there is no backing file, so it shrinks as pages are wanted back; " + accepts);
}

TEST(Render, SurvivesAnswersOfAnyShape) {
  const std::vector<json> odd = {
      nullptr,
      7,
      "text",
      true,
      json::array(),
      json::array({1, nullptr}),
      json::object(),
      json::parse(R"({"pid": -1, "comm": 7, "pool": [], "processes": {}, "held_bytes": "x",
                      "resident_bytes": -5, "fault_latency_ns": 3, "version": {}, "backing": 7,
                      "pool_pages": {"a": 1}, "disk_pages": [null, -1, "x"]})"),
      json::parse(R"({"backing": {"suspended": 7, "daily_left_bytes": "x"}})")};
  for (const json& answer : odd) {
    for (const std::string& text :
         {RenderStatus(answer), RenderProcesses(answer), RenderProcess(answer),
          RenderEvicted(1, answer), RenderDrained(1, answer), RenderThawed(1, answer),
          RenderHistogram(answer), RenderLimit(1, answer), RenderReloaded(answer),
          RenderSet(answer), RenderVersion(answer)}) {
      EXPECT_EQ(text.back(), '\n') << answer;
    }
  }
}

TEST(RenderProgress, FitsTheTerminal) {
  ControlProgress progress{58'982, 131'072};
  constexpr int64_t kTenSeconds = 10'000'000'000;
  EXPECT_EQ(RenderProgress("evict 1234", progress, kTenSeconds, 80),
            "evict 1234  [=========>             ]   44 %  58,982 of 131,072 pages, 12 s left");
  for (size_t columns = 0; columns < 200; ++columns) {
    EXPECT_LE(RenderProgress("evict 1234", progress, kTenSeconds, columns).size(), columns);
  }
  EXPECT_TRUE(absl::StrContains(RenderProgress("x", {0, 0}, 1, 80), "  0 %  0 of 0 pages"));
  EXPECT_TRUE(absl::StrContains(RenderProgress("x", {9, 5}, 1, 80), "100 %  5 of 5 pages"));
}

TEST(ProgressBar, IsQuietForTwoSecondsThenDrawsAndWipesItself) {
  FakeClock clock;
  std::vector<std::string> written;
  {
    ProgressBar bar("evict 1", clock, 80,
                    [&](absl::string_view bytes) { written.emplace_back(bytes); });
    bar.Update({1, 10});
    clock.Advance(1'999'000'000);
    bar.Update({2, 10});
    EXPECT_TRUE(written.empty());
    clock.Advance(1'000'000);
    bar.Update({3, 10});
    bar.Update({4, 10});  // too soon to draw again
    ASSERT_EQ(written.size(), 1u);
    EXPECT_EQ(written[0].substr(0, 9), "\revict 1 ");
  }
  EXPECT_EQ(written.size(), 2u);
  EXPECT_EQ(written.back(), "\r\x1b[K");
}

TEST(ProgressBar, WritesNothingWhereThereIsNoTerminal) {
  FakeClock clock;
  ProgressBar bar("evict 1", clock, 0, nullptr);
  clock.Advance(10'000'000'000);
  bar.Update({1, 10});
}

}  // namespace
}  // namespace zmem
