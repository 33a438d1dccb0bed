#include "zmemd/config.h"

#include <libeconf.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "libzmem/base/quantity.h"
#include "libzmem/base/sys.h"
#include "libzmem/codec/compressor.h"
#include "zmemd/config_keys.h"

namespace zmem {
namespace {

// A configuration has a few hundred bytes. libeconf reads lines of up to BUFSIZ (8 KiB) and takes
// quadratic time, so what is far larger is refused before it sees it.
constexpr off_t kMaxFileBytes = 64 << 10;
constexpr size_t kMaxLineBytes = 1000;
// Of more mistakes than this in one file only the number is told.
constexpr size_t kMaxErrorsPerFile = 100;

constexpr char kDelimiters[] = "= \t";
constexpr char kComments[] = "#;";

// Where a key stands in a file. libeconf knows the value; it does not tell the lines of keys that
// are repeated, nor of section headers.
struct KeyLine {
  size_t line;
  std::string section;  // empty before the first
  std::string name;
  std::optional<size_t> program;  // of Config::programs, in a section of a program
};

struct EconfFree {
  void operator()(econf_file* file) const { econf_freeFile(file); }
};

// Reads one file after the other into one LoadedConfig.
class Loader {
 public:
  Loader(const ConfigSource& source, LoadedConfig& loaded) : source_(source), loaded_(loaded) {}

  void ReadFileAndDropIns() {
    struct stat info;
    bool missing = stat(source_.file.c_str(), &info) != 0 && errno == ENOENT;
    if (!missing || source_.must_exist) ReadOne(source_.file);
    for (const std::string& path : DropIns()) ReadOne(path);
    ShareMatches(loaded_.config.programs);
  }

 private:
  void AddError(absl::string_view where, absl::string_view what) {
    loaded_.errors.push_back(absl::StrCat(where, ": ", what));
  }

  void AddErrorAt(size_t line, absl::string_view what) {
    ++errors_in_file_;
    if (line_errors_.size() < kMaxErrorsPerFile) line_errors_.emplace_back(line, what);
  }

  // Reports what was found in the file just read, by line.
  void ReportLineErrors() {
    std::stable_sort(line_errors_.begin(), line_errors_.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [line, what] : line_errors_) AddError(absl::StrCat(path_, ":", line), what);
    if (errors_in_file_ > line_errors_.size()) {
      AddError(path_, absl::StrCat("has ", errors_in_file_ - line_errors_.size(),
                                   " more errors; is it a configuration of zmemd?"));
    }
    line_errors_.clear();
    errors_in_file_ = 0;
  }

  // FILE.d/*.conf in the order of their names.
  std::vector<std::string> DropIns() {
    std::string directory = source_.file + ".d";
    std::vector<std::string> paths;
    std::error_code error;
    std::filesystem::directory_iterator entry(directory, error);
    for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
      if (entry->path().extension() == ".conf") paths.push_back(entry->path().string());
    }
    if (error && error != std::errc::no_such_file_or_directory) {
      AddError(directory, absl::StrCat("cannot be listed for drop-ins: ", error.message()));
    }
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  void ReadOne(const std::string& path) {
    path_ = path;
    program_lines_.clear();
    broken_programs_.clear();
    loaded_.files.push_back(path);
    std::optional<std::string> text = ReadText();
    if (!text) return;
    std::vector<KeyLine> keys = FindKeys(*text);
    std::unique_ptr<econf_file, EconfFree> values = ParseValues();
    std::set<std::pair<std::string, std::string>> seen;
    for (const KeyLine& key : keys) {
      size_t errors_before = errors_in_file_;
      if (seen.emplace(key.section, key.name).second) {
        Apply(key, values.get());
      } else {
        AddErrorAt(key.line,
                   absl::StrCat(Quoted(key.name), " is set twice in this file; keep one"));
      }
      bool is_broken = errors_in_file_ > errors_before || values == nullptr;
      if (key.program && is_broken) broken_programs_.insert(*key.program);
    }
    CheckPrograms();
    ReportLineErrors();
  }

  // The sections of this file whose lines are all right by themselves.
  void CheckPrograms() {
    const std::vector<ProgramSection>& programs = loaded_.config.programs;
    size_t first = programs.size() - program_lines_.size();
    for (size_t i = first; i < programs.size(); ++i) {
      if (broken_programs_.contains(i)) continue;
      size_t line = program_lines_[i - first];
      // What is there again in a later file is changed by it, if by its match alone.
      bool is_new =
          std::none_of(programs.begin(), programs.begin() + static_cast<ptrdiff_t>(i),
                       [&](const ProgramSection& other) { return other.name == programs[i].name; });
      std::string wrong = is_new ? DescribeContradiction(programs[i]) : "";
      if (!wrong.empty()) AddErrorAt(line, wrong);
      for (size_t j = first; j < i; ++j) {
        bool same_exe = programs[i].match.exe.value_or(programs[i].name) ==
                        programs[j].match.exe.value_or(programs[j].name);
        if (same_exe && programs[i].match.uid == programs[j].match.uid &&
            programs[i].match.cgroup == programs[j].match.cgroup) {
          AddErrorAt(line, absl::StrCat("means the same programs as the section in line ",
                                        program_lines_[j - first], "; make one of them"));
        }
      }
    }
  }

  // nullopt, and an error, unless the file is a small regular one.
  std::optional<std::string> ReadText() {
    struct stat info;
    if (stat(path_.c_str(), &info) != 0) {
      AddError(path_, absl::StrCat("cannot be read: ", strerror(errno)));
    } else if (!S_ISREG(info.st_mode)) {
      AddError(path_, "is not a regular file; a configuration must be one");
    } else if (info.st_size > kMaxFileBytes) {
      AddError(path_, absl::StrCat("has ", FormatBytes(static_cast<uint64_t>(info.st_size)),
                                   "; a configuration may have ", FormatBytes(kMaxFileBytes)));
    } else {
      std::string text;
      absl::Status read = sys::ReadFile(path_, text);
      if (read.ok()) return text;
      AddError(path_, read.message());
    }
    return std::nullopt;
  }

  // Finds the line of every key that stands in a known section or in none, and reports each line
  // that is neither comment, section nor key.
  std::vector<KeyLine> FindKeys(absl::string_view text) {
    std::vector<KeyLine> keys;
    // nullopt while it is unknown where the keys belong: they can only be judged once the header
    // above them is mended.
    std::optional<std::string> section = "";
    size_t number = 0;
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      ++number;
      if (const char* problem = WhyUnreadable(line)) {
        AddErrorAt(number, problem);
        continue;
      }
      line = absl::StripAsciiWhitespace(line.substr(0, line.find_first_of(kComments)));
      if (line.empty()) continue;
      if (line.front() == '[') {
        section = SectionOf(line, number);
        continue;
      }
      std::string name = KeyOf(line, number);
      if (name.empty() || !section) continue;
      std::optional<size_t> program;
      if (ProgramNameOf(*section)) program = loaded_.config.programs.size() - 1;
      keys.push_back({number, *section, name, program});
    }
    return keys;
  }

  static const char* WhyUnreadable(absl::string_view line) {
    if (line.size() > kMaxLineBytes) return "is longer than 1000 bytes; is this a text file?";
    for (char c : line) {
      if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t' && c != '\r') {
        return "has a control character in it; is this a text file?";
      }
    }
    return nullptr;
  }

  std::optional<std::string> SectionOf(absl::string_view line, size_t number) {
    if (line.find(']') != line.size() - 1) {
      AddErrorAt(number, absl::StrCat(Quoted(line), " is not a section; write it as [name]"));
      return std::nullopt;
    }
    absl::string_view name = line.substr(1, line.size() - 2);
    if (IsConfigSection(name)) return std::string(name);
    if (std::optional<std::string> program = ProgramNameOf(name)) {
      return BeginProgram(*program, number) ? std::optional(std::string(name)) : std::nullopt;
    }
    AddErrorAt(number, DescribeUnknownSection(name));
    return std::nullopt;
  }

  // False, and an error, if this file has a section of that name already.
  bool BeginProgram(const std::string& name, size_t number) {
    std::vector<ProgramSection>& programs = loaded_.config.programs;
    size_t first = programs.size() - program_lines_.size();
    for (size_t i = first; i < programs.size(); ++i) {
      if (programs[i].name != name) continue;
      AddErrorAt(number, absl::StrCat("[program ", Quoted(name), "] is in line ",
                                      program_lines_[i - first], " already; keep one"));
      return false;
    }
    programs.push_back({.name = name});
    program_lines_.push_back(number);
    return true;
  }

  std::string KeyOf(absl::string_view line, size_t number) {
    size_t equals = line.find('=');
    if (equals == 0 || equals == absl::string_view::npos) {
      AddErrorAt(number, absl::StrCat(Quoted(line), " is not of the form key=value"));
      return "";
    }
    return std::string(absl::StripAsciiWhitespace(line.substr(0, equals)));
  }

  // nullptr, and an error unless there is one already, when libeconf refuses the file.
  std::unique_ptr<econf_file, EconfFree> ParseValues() {
    econf_file* parsed = nullptr;
    std::error_code no_working_directory;
    std::string absolute = std::filesystem::absolute(path_, no_working_directory).string();
    econf_err error = econf_readFile(&parsed, absolute.c_str(), kDelimiters, kComments);
    if (error == ECONF_SUCCESS) return std::unique_ptr<econf_file, EconfFree>(parsed);
    if (errors_in_file_ == 0) {
      char* where = nullptr;
      uint64_t line = 0;
      econf_errLocation(&where, &line);
      free(where);
      AddErrorAt(line, econf_errString(error));
    }
    return nullptr;
  }

  // Takes the value of `key` over, or reports what is wrong. Without `values` only its name is
  // judged.
  void Apply(const KeyLine& key, econf_file* values) {
    const ProgramKey* of_program = key.program ? FindProgramKey(key.name) : nullptr;
    const ConfigKey* known = key.program ? nullptr : FindConfigKey(key.section, key.name);
    if (known == nullptr && of_program == nullptr) {
      return AddErrorAt(key.line, key.program ? DescribeUnknownProgramKey(key.name)
                                              : DescribeUnknownKey(key.section, key.name));
    }
    if (values == nullptr) return;
    char* value = nullptr;
    econf_err error = econf_getStringValue(values, key.section.c_str(), key.name.c_str(), &value);
    std::unique_ptr<char, decltype(&free)> owner(value, &free);
    if (error != ECONF_SUCCESS || value == nullptr || *value == '\0') {
      return AddErrorAt(key.line, absl::StrCat(key.name, " has no value"));
    }
    absl::Status set = key.program
                           ? of_program->set(value, source_, loaded_.config.programs[*key.program])
                           : known->set(value, source_, loaded_.config);
    if (!set.ok()) AddErrorAt(key.line, absl::StrCat(key.name, ": ", set.message()));
  }

  const ConfigSource& source_;
  LoadedConfig& loaded_;
  std::string path_;
  std::vector<size_t> program_lines_;  // of the sections of programs in this file
  std::set<size_t> broken_programs_;   // of Config::programs: with mistakes in their lines
  std::vector<std::pair<size_t, std::string>> line_errors_;
  size_t errors_in_file_ = 0;  // including those too many to keep
};

}  // namespace

uint64_t PoolLimitBytes(const Config& config, uint64_t ram_bytes) {
  uint64_t share = ram_bytes / 100 * config.max_pool_percent;
  return config.max_pool_size == 0 ? share : std::min(share, config.max_pool_size);
}

Policy DefaultPolicy(const Config& config) {
  return {.mode = config.mode,
          .cold_age_ns = config.cold_age_ns,
          .scan_interval_ns = config.scan_interval_ns,
          .stall_target_percent = config.stall_target_percent,
          .limit_bytes = config.limit_bytes,
          .compressor = FindCompressor(config.compressor)};
}

unsigned FatPercent(const Config& config, bool has_backing) {
  constexpr unsigned kWithFile = 50;
  constexpr unsigned kWithoutFile = 90;
  return config.fat_threshold_percent.value_or(has_backing ? kWithFile : kWithoutFile);
}

LoadedConfig LoadConfig(const ConfigSource& source) {
  LoadedConfig loaded;
  Loader(source, loaded).ReadFileAndDropIns();
  return loaded;
}

absl::Status ChangeConfig(absl::string_view key, absl::string_view value,
                          const ConfigSource& source, Config& config) {
  const ConfigKey* known = FindConfigKey(key);
  if (known == nullptr) return absl::InvalidArgumentError(DescribeUnknownKey("", key));
  if (!known->changes_at_run_time) {
    const char* when = known->differs == nullptr
                           ? " is read when zmemd starts and by zmemctl reload"
                           : " is read when zmemd starts";
    return absl::InvalidArgumentError(
        absl::StrCat(key, when, "; what may be set while it runs is ", RunTimeKeyNames()));
  }
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat(key, " has no value"));
  absl::Status set = known->set(value, source, config);
  return set.ok() ? set : absl::InvalidArgumentError(absl::StrCat(key, ": ", set.message()));
}

}  // namespace zmem
