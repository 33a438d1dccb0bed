// The program that bench/worst_case squeezes: memory full of pattern pages, and the three ways of
// using it that leave memory compression least to win. Every page that is read is checked.
// Single-threaded.
#pragma once

#include <cstdint>
#include <string>

#include "tests/programs/pattern_region.h"

namespace zmem {

class WorstCaseProgram {
 public:
  struct Options {
    uint64_t pages = 0;
    PageContent content = PageContent::kCompressible;
    PageContent rewritten = PageContent::kCompressible;
    double seconds = 0.75;
    uint64_t seed = 1;
  };

  explicit WorstCaseProgram(const Options& options);

  // Takes commands from stdin until its end:
  //   fill            fills every page
  //   random reads    reads a word of one page after the other, in random order
  //   cyclic reads    the same in ascending order, round and round
  //   rewrite         gives one page after the other new contents, round and round
  //   verify          checks every page to its last bit
  // All answer "ok" or what is wrong, except that the three in the middle go on for as long as the
  // options say, from where they were, and answer with what they measured, as JSON.
  // Returns the program's exit code.
  int Serve();

 private:
  std::string Fill();
  std::string Verify() const;
  // Does `operation`, which returns false if a page was wrong, again and again.
  template <typename Operation>
  std::string Measure(Operation operation) const;

  bool ReadPage(uint64_t page) const;
  bool ReadRandomPage();
  bool ReadNextPage();
  bool RewriteNextPage();
  uint64_t Version(uint64_t page) const { return page < cursor_ ? version_ : version_ - 1; }

  const Options options_;
  PatternRegion region_;
  uint64_t random_;
  uint64_t next_read_ = 0;
  // Pages before the cursor are of this version, those from it on of the one before.
  uint64_t version_ = 1;
  uint64_t cursor_ = 0;
};

}  // namespace zmem
