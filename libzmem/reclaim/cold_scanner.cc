#include "libzmem/reclaim/cold_scanner.h"

#include <algorithm>

namespace zmem {

bool ColdScanner::Observe(uint64_t chunk_number, size_t present_pages, int64_t last_fault_ns,
                          int64_t now_ns) {
  auto [found, fresh] = ages_.try_emplace(chunk_number);
  Age& age = found->second;
  age.seen = true;
  if (fresh || age.present_pages != present_pages) {
    age.present_pages = present_pages;
    age.changed_ns = now_ns;
  }
  if (present_pages == 0) return false;
  int64_t quiet_ns = now_ns - std::max(age.changed_ns, last_fault_ns);
  return quiet_ns >= cold_age_ns_ * int64_t{age.backoff};
}

void ColdScanner::OnTaken(uint64_t chunk_number, size_t present_pages) {
  ages_[chunk_number].present_pages = present_pages;
}

void ColdScanner::OnHot(uint64_t chunk_number, int64_t now_ns) {
  Age& age = ages_[chunk_number];
  age.changed_ns = now_ns;
  age.backoff = std::min(age.backoff * 2, kMaxBackoff);
}

void ColdScanner::OnCold(uint64_t chunk_number) {
  Age& age = ages_[chunk_number];
  age.backoff = std::max(age.backoff / 2, 1u);
}

void ColdScanner::ForgetUnseen() {
  absl::erase_if(ages_, [](auto& entry) {
    bool forget = !entry.second.seen;
    entry.second.seen = false;
    return forget;
  });
}

}  // namespace zmem
