#include "bench/replacement.h"

#include "libzmem/base/check.h"

namespace zmem {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

// A ring of the pages that are there, the newest before the oldest, by page number.
class Lru final : public Replacement {
 public:
  Lru(uint32_t pages, uint32_t capacity) : free_(capacity), links_(pages + 1), head_(pages) {
    links_[head_] = {head_, head_};
  }

  bool Touch(uint32_t page) override {
    bool there = links_[page].older != kNone;
    if (there) {
      Unlink(page);
    } else if (free_ > 0) {
      --free_;
    } else {
      uint32_t oldest = links_[head_].newer;
      Unlink(oldest);
      links_[oldest] = {};
    }
    LinkAsNewest(page);
    return there;
  }

 private:
  struct Links {
    uint32_t older = kNone;  // kNone: the page is not there
    uint32_t newer = kNone;
  };

  void Unlink(uint32_t page) {
    Links links = links_[page];
    links_[links.older].newer = links.newer;
    links_[links.newer].older = links.older;
  }
  void LinkAsNewest(uint32_t page) {
    uint32_t second = links_[head_].older;
    links_[page] = {second, head_};
    links_[second].newer = page;
    links_[head_].older = page;
  }

  uint32_t free_;
  std::vector<Links> links_;
  const uint32_t head_;  // stands between the newest and the oldest
};

// The others keep the pages that are there in frames, and choose the frame to reuse.
class Frames : public Replacement {
 public:
  Frames(uint32_t pages, uint32_t capacity) : capacity_(capacity), frame_of_page_(pages, kNone) {
    pages_.reserve(capacity);
  }

  bool Touch(uint32_t page) final {
    uint32_t frame = frame_of_page_[page];
    if (frame != kNone) {
      Touched(frame);
      return true;
    }
    if (pages_.size() < capacity_) {
      frame = static_cast<uint32_t>(pages_.size());
      pages_.push_back(page);
    } else {
      frame = Choose();
      frame_of_page_[pages_[frame]] = kNone;
      pages_[frame] = page;
    }
    frame_of_page_[page] = frame;
    return false;
  }

 protected:
  uint32_t capacity() const { return capacity_; }
  uint32_t Next(uint32_t frame) const { return frame + 1 == capacity_ ? 0 : frame + 1; }
  // A page that is there was touched.
  virtual void Touched(uint32_t /*frame*/) {}
  // Whose page is to go.
  virtual uint32_t Choose() = 0;

 private:
  const uint32_t capacity_;
  std::vector<uint32_t> frame_of_page_;  // kNone: it is not there
  std::vector<uint32_t> pages_;          // by frame
};

class Fifo final : public Frames {
 public:
  using Frames::Frames;

 private:
  uint32_t Choose() override {
    uint32_t oldest = oldest_;
    oldest_ = Next(oldest_);
    return oldest;
  }

  uint32_t oldest_ = 0;
};

class ClockHand final : public Frames {
 public:
  ClockHand(uint32_t pages, uint32_t capacity) : Frames(pages, capacity), touched_(capacity) {}

 private:
  void Touched(uint32_t frame) override { touched_[frame] = true; }
  uint32_t Choose() override {
    while (touched_[hand_]) {
      touched_[hand_] = false;
      hand_ = Next(hand_);
    }
    uint32_t chosen = hand_;
    hand_ = Next(hand_);
    return chosen;
  }

  std::vector<bool> touched_;  // by frame, since it came or the hand passed
  uint32_t hand_ = 0;
};

class Random final : public Frames {
 public:
  Random(uint32_t pages, uint32_t capacity, uint64_t seed)
      : Frames(pages, capacity), random_(seed) {}

 private:
  uint32_t Choose() override {
    return std::uniform_int_distribution<uint32_t>(0, capacity() - 1)(random_);
  }

  std::mt19937_64 random_;
};

}  // namespace

std::unique_ptr<Replacement> MakeLru(uint32_t pages, uint32_t capacity) {
  ZMEM_CHECK(capacity > 0);
  return std::make_unique<Lru>(pages, capacity);
}

std::unique_ptr<Replacement> MakeFifo(uint32_t pages, uint32_t capacity) {
  ZMEM_CHECK(capacity > 0);
  return std::make_unique<Fifo>(pages, capacity);
}

std::unique_ptr<Replacement> MakeClock(uint32_t pages, uint32_t capacity) {
  ZMEM_CHECK(capacity > 0);
  return std::make_unique<ClockHand>(pages, capacity);
}

std::unique_ptr<Replacement> MakeRandom(uint32_t pages, uint32_t capacity, uint64_t seed) {
  ZMEM_CHECK(capacity > 0);
  return std::make_unique<Random>(pages, capacity, seed);
}

}  // namespace zmem
