#include "tests/demo/terminal.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace zmem {
namespace {

using std::chrono::steady_clock;

constexpr int kBarCells = 24;
constexpr std::chrono::milliseconds kRedraw{100};
constexpr char kEraseLine[] = "\r\033[K";

std::string InColour(const std::string& text, const char* code) {
  return OnTerminal() ? absl::StrCat("\033[", code, "m", text, "\033[0m") : text;
}

// Eight steps a cell, so that slow steps are seen to move.
std::string Bar(double fraction) {
  static constexpr const char* kPartial[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  int eighths = static_cast<int>(fraction * kBarCells * 8);
  std::string bar;
  for (int cell = 0; cell < eighths / 8; ++cell) bar += "█";
  bar += kPartial[eighths % 8];
  int drawn = eighths / 8 + (eighths % 8 != 0);
  for (int cell = drawn; cell < kBarCells; ++cell) bar += "·";
  return bar;
}

double SecondsSince(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

}  // namespace

bool OnTerminal() {
  static const bool on_terminal = isatty(STDOUT_FILENO) == 1;
  return on_terminal;
}

std::string Bold(const std::string& text) { return InColour(text, "1"); }
std::string Good(const std::string& text) { return InColour(text, "1;32"); }
std::string Bad(const std::string& text) { return InColour(text, "1;31"); }

std::string WithCommas(int64_t number) {
  std::string digits = absl::StrCat(number);
  std::string grouped;
  for (size_t at = 0; at < digits.size(); ++at) {
    bool group_ends = at > 0 && (digits.size() - at) % 3 == 0 && digits[at - 1] != '-';
    if (group_ends) grouped += ',';
    grouped += digits[at];
  }
  return grouped;
}

std::string Mib(int64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string Duration(int64_t ns) {
  if (ns < 1'000) return absl::StrFormat("%d ns", ns);
  if (ns < 1'000'000) return absl::StrFormat("%.1f µs", static_cast<double>(ns) / 1e3);
  return absl::StrFormat("%.1f ms", static_cast<double>(ns) / 1e6);
}

Progress::Progress(std::string title) : title_(std::move(title)), start_(steady_clock::now()) {
  Draw(0, "", false);
}

void Progress::Update(double fraction, const std::string& note) {
  if (OnTerminal()) {
    if (steady_clock::now() - drawn_ >= kRedraw) Draw(fraction, note, false);
  } else if (fraction * 4 >= next_quarter_ && next_quarter_ < 4) {
    next_quarter_ = static_cast<int>(fraction * 4) + 1;
    Draw(fraction, note, false);
  }
}

void Progress::Finish(const std::string& note) { Draw(1, note, true); }

void Progress::Draw(double fraction, const std::string& note, bool last) {
  drawn_ = steady_clock::now();
  fraction = std::clamp(fraction, 0.0, 1.0);
  if (!OnTerminal()) {
    std::printf("  %-24s %5.1f s  %3.0f %%  %s\n", title_.c_str(), SecondsSince(start_),
                fraction * 100, note.c_str());
  } else if (last) {
    std::printf("%s  %s %-24s %5.1f s  %s\n", kEraseLine, Good("✓").c_str(), title_.c_str(),
                SecondsSince(start_), note.c_str());
  } else {
    std::printf("%s  · %-24s %5.1f s  %s %3.0f %%  %s", kEraseLine, title_.c_str(),
                SecondsSince(start_), Bar(fraction).c_str(), fraction * 100, note.c_str());
  }
  std::fflush(stdout);
}

}  // namespace zmem
