// Subject program: a region of known content, a known share of which it touches each second, page
// after page. Half of the pages are pattern pages, a quarter is filled by one word each, a quarter
// is random.
//   habits --mib N --touched-percent N
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/programs/command_loop.h"
#include "tests/programs/pattern_region.h"

namespace zmem {
namespace {

constexpr uint64_t kVersion = 1;

void Fill(const PatternRegion& region) {
  for (uint64_t number = 0; number < region.pages(); ++number) {
    std::byte* page = region.page(number);
    if (number % 4 == 1) {
      std::memset(page, static_cast<int>(number % 251), kPageBytes);
    } else {
      FillPage(page, number, kVersion,
               number % 4 == 3 ? PageContent::kRandom : PageContent::kCompressible);
    }
  }
}

// By the clock and not by the sleep, which may be long on a machine that has much to do.
void TouchUntil(const std::atomic<bool>& stop, const PatternRegion& region, double pages_a_second) {
  auto start = std::chrono::steady_clock::now();
  uint64_t touched = 0;
  while (!stop) {
    std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    for (; static_cast<double>(touched) < elapsed.count() * pages_a_second; ++touched) {
      static_cast<void>(*static_cast<volatile std::byte*>(region.page(touched % region.pages())));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace
}  // namespace zmem

int main(int argc, char** argv) {
  size_t mib = 64;
  double touched_percent = 0;
  CLI::App app("Touches its pages one after the other, and answers commands on stdin.");
  app.add_option("--mib", mib, "size of the region");
  app.add_option("--touched-percent", touched_percent, "of the pages, each second");
  CLI11_PARSE(app, argc, argv);
  zmem::PatternRegion region((mib << 20) / zmem::kPageBytes, zmem::PageContent::kCompressible);
  // One mark a page, wherever the kernel gives out huge ones unasked.
  madvise(region.page(0), region.pages() * zmem::kPageBytes, MADV_NOHUGEPAGE);
  zmem::Fill(region);
  std::atomic<bool> stop{false};
  std::thread toucher([&] {
    zmem::TouchUntil(stop, region, static_cast<double>(region.pages()) * touched_percent / 100);
  });
  int exit_code = zmem::ServeCommands({});
  stop = true;
  toucher.join();
  return exit_code;
}
