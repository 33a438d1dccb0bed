// The program that bench/worst_case squeezes: memory full of pattern pages, and the three ways of
// using it that leave memory compression least to win. Every page that is read is checked.
// Single-threaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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
  //   random touches  reads a few words of one page after the other, in random order, and every
  //                   fourth time gives the page new contents
  //   cyclic reads    reads in ascending order, round and round
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
  bool TouchRandomPage();
  bool ReadNextPage();
  bool RewriteNextPage();
  uint64_t NextPage();
  void Rewrite(uint64_t page);

  const Options options_;
  PatternRegion region_;
  uint64_t random_;
  uint64_t next_page_ = 0;
  std::vector<uint32_t> versions_;  // of the pages
};

}  // namespace zmem
