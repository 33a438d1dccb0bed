// Work that can wait: in this scope the calling thread has a tenth of the CPU time that others get
// where all want it, and goes after whoever wakes up. For work without locks, since whoever wants
// one waits as long as its holder does.
#pragma once

namespace zmem {

class NiceScope {
 public:
  // Does nothing if not `wanted`, and where the thread could not come back from it: that takes
  // CAP_SYS_NICE or RLIMIT_NICE.
  explicit NiceScope(bool wanted);
  ~NiceScope();
  NiceScope(const NiceScope&) = delete;
  NiceScope& operator=(const NiceScope&) = delete;

 private:
  int before_ = 0;
  bool is_nice_ = false;
};

}  // namespace zmem
