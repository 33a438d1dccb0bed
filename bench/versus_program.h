// The program that bench/versus_kernel measures under zmem and under the kernel's swap: memory full
// of stamped pages, and the ways of using it that are compared. Every page that is read is checked.
// One thread, but for the commands that say otherwise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "bench/bare_squeeze.h"
#include "bench/stamped_pages.h"

namespace zmem {

class VersusProgram {
 public:
  struct Options {
    uint32_t pages = 0;
    double seconds = 2;          // how long what goes on and on is measured
    double settle_s = 0.5;       // and goes on before that
    double faults_per_s = 1000;  // of "paced"
    int threads = 1;             // of "threads" and "paced"
    uint64_t seed = 1;
    std::string samples_path;  // where "one" and "paced" leave what each touch took
  };

  explicit VersusProgram(const Options& options);

  // Takes commands from stdin until its end:
  //   fill        fills every page; answers with operations (pages)
  //   rewrite     gives every page a new version
  //   page out    has the kernel take everything out (MADV_PAGEOUT)
  //   one         touches every page that is out once, in random order; samples
  //   threads     the same in several threads at once
  //   sequential  the same in ascending order
  //   paced       touches pages that are out at random times, `faults_per_s` in all; samples
  //   scan        reads everything in order again and again; whole rounds, but for the slowest
  //   random      reads pages in random order and writes to every second
  //   random bare the same squeezed to half by bare system calls, from then on
  //   resident    answers with the number of pages that are in memory
  //   verify      checks every word of every page
  //   verify some checks a word and a stamp of every eighth page
  // The answer is "ok", or what is wrong beginning with "WRONG", or JSON with "operations" and
  // "elapsed_s". Samples are nanoseconds as binary 32-bit numbers.
  // Returns the program's exit code.
  int Serve();

 private:
  std::string Fill();
  std::string Rewrite();
  std::string PageOut();
  std::string TouchOut(bool random, int threads, bool samples);
  std::string TouchPaced();
  std::string Scan();
  std::string Random();
  std::string RandomBare();
  std::string CountResident();
  std::string VerifySome() const;

  // Puts the pages that are out into order_. Returns how many there are.
  size_t Arrange(bool random);
  // Touches order_[first], order_[first + step] ... and notes what each took.
  void TouchEvery(size_t first, size_t step, size_t end);
  void TouchOne(size_t at);
  // Notes a page that is not right, the last of which is told.
  void Check(uint32_t page, uint64_t turn);
  std::string Result(uint64_t operations, int64_t elapsed_ns) const;
  void WriteSamples(size_t count) const;

  const Options options_;
  StampedPages pages_;
  uint32_t* const order_;
  uint32_t* const taken_ns_;
  unsigned char* const resident_;
  uint64_t random_;
  std::optional<BareSqueeze> bare_squeeze_;
  // 0: none; else its number + 1. Of several threads any may win.
  uint32_t wrong_ = 0;
};

}  // namespace zmem
