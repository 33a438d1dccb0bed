#include "libzmem/store/clean_pages.h"

#include <xxhash.h>

#include <random>
#include <utility>
#include <vector>

namespace zmem {
namespace {

// A program's forms promise to be of use while more than one in eight was, by a moving average.
constexpr uint32_t kCertain = 4096;
constexpr uint32_t kPromising = kCertain / 8;
constexpr uint32_t kLearnShift = 5;
// Of those that promise nothing one in so many is kept, to see whether that has changed.
constexpr uint32_t kProbing = 16;

uint64_t RandomSeed() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

// What it costs to keep the object of `entry` in memory.
uint64_t BytesOf(PageEntry entry) {
  return entry.state() == PageState::kInPool ? entry.object_bytes() : 0;
}

// What takes a few bytes, or as many as the page, is not worth it.
bool WorthKeeping(PageEntry entry) {
  return entry.state() == PageState::kOnDisk ||
         (entry.state() == PageState::kInPool && entry.codec() != CodecId::kRaw &&
          entry.codec() != CodecId::kSameWord);
}

}  // namespace

CleanPages::CleanPages(PageStore& store) : store_(store), seed_(RandomSeed()), promise_(kCertain) {
  store_.AddSpare(this);
}

CleanPages::~CleanPages() {
  store_.RemoveSpare(this);
  DropAll();
}

CleanPages::Hash CleanPages::HashOf(std::span<const std::byte, kPageBytes> bytes) const {
  XXH128_hash_t hash = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed_);
  return {hash.low64, hash.high64};
}

bool CleanPages::Promising() {
  return promise_.load(std::memory_order_relaxed) >= kPromising ||
         passed_over_.fetch_add(1, std::memory_order_relaxed) % kProbing == 0;
}

void CleanPages::Learn(bool reused) {
  uint32_t promise = promise_.load(std::memory_order_relaxed);
  promise =
      reused ? promise + ((kCertain - promise) >> kLearnShift) : promise - (promise >> kLearnShift);
  promise_.store(promise, std::memory_order_relaxed);
}

CleanPages::Forms::iterator CleanPages::OldestLocked() {
  // All may have to be put to the end once.
  size_t most_tries = queue_.size() + forms_.size();
  for (size_t tries = 0; !queue_.empty() && tries <= most_tries; ++tries) {
    auto found = forms_.find(queue_.front().chunk_number);
    bool is_own = found != forms_.end() && found->second->queued == queue_.front().kept;
    if (is_own && found->second->kept == queue_.front().kept) return found;
    queue_.pop_front();
    if (is_own) QueueLocked(found->first, *found->second);
  }
  return forms_.end();
}

void CleanPages::QueueLocked(uint64_t chunk_number, ChunkForms& forms) {
  forms.queued = forms.kept;
  queue_.push_back({chunk_number, forms.kept});
  // Chunks whose forms come and go leave places behind.
  constexpr size_t kFewPlaces = 64;
  if (queue_.size() < 2 * forms_.size() + kFewPlaces) return;
  std::erase_if(queue_, [this](const Queued& place) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    auto found = forms_.find(place.chunk_number);
    return found == forms_.end() || found->second->queued != place.kept;
  });
}

PageEntry CleanPages::TakeOut(ChunkForms& forms, Form& form) {
  if (form.entry != PageEntry()) --forms.count;
  return std::exchange(form.entry, PageEntry());
}

std::unique_ptr<CleanPages::ChunkForms> CleanPages::TakeEmptyLocked(Forms::iterator chunk) {
  if (chunk->second->count > 0) return nullptr;
  std::unique_ptr<ChunkForms> forms = std::move(chunk->second);
  forms_.erase(chunk);
  chunks_.store(forms_.size(), std::memory_order_relaxed);
  return forms;
}

bool CleanPages::GiveUpOldest() {
  // A few, so that the fault thread is not held up; more than a stream brings in their place.
  constexpr size_t kForms = 4;
  std::vector<PageEntry> dropped;
  std::unique_ptr<ChunkForms> emptied;
  {
    MutexLock lock(mutex_);
    auto oldest = OldestLocked();
    if (oldest == forms_.end()) return false;
    for (Form& form : oldest->second->forms) {
      if (form.entry == PageEntry()) continue;
      dropped.push_back(TakeOut(*oldest->second, form));
      if (dropped.size() == kForms) break;
    }
    emptied = TakeEmptyLocked(oldest);
  }
  for (PageEntry entry : dropped) Release(entry);
  if (emptied != nullptr) ReleaseAll(*emptied);
  return true;
}

bool CleanPages::Keep(Address page, PageEntry entry, std::span<const std::byte, kPageBytes> bytes,
                      Return how) {
  bool in_full_pool = entry.state() == PageState::kInPool && store_.pool_full();
  if (!WorthKeeping(entry) || in_full_pool || !enabled_.load(std::memory_order_acquire) ||
      !Promising()) {
    return false;
  }
  bool has_room = store_.HasCleanRoom(BytesOf(entry));
  // More than once where the books of another chunk took room too.
  constexpr int kTries = 4;
  for (int tries = 0; !has_room && how == Return::kInStream && tries < kTries; ++tries) {
    if (!GiveUpOldest()) break;
    has_room = store_.HasCleanRoom(BytesOf(entry));
  }
  if (!has_room) return false;
  Hash hash = HashOf(bytes);
  // Counted first, so that nobody takes off what was not put on.
  store_.clean.pages.fetch_add(1, std::memory_order_relaxed);
  store_.clean.object_bytes.fetch_add(BytesOf(entry), std::memory_order_relaxed);
  PageEntry replaced;
  {
    MutexLock lock(mutex_);
    std::unique_ptr<ChunkForms>& forms = forms_[ChunkNumber(page)];
    bool is_new = false;
    if (forms == nullptr) {
      forms = std::make_unique<ChunkForms>();
      is_new = true;
      store_.clean.metadata_bytes.fetch_add(sizeof(ChunkForms), std::memory_order_relaxed);
      chunks_.store(forms_.size(), std::memory_order_relaxed);
    }
    forms->period = period_;
    forms->kept = ++keeps_;
    Form& form = forms->forms[PageInChunk(page)];
    replaced = TakeOut(*forms, form);
    form = {entry, hash};
    ++forms->count;
    if (is_new) QueueLocked(ChunkNumber(page), *forms);
  }
  if (replaced != PageEntry()) Release(replaced);
  // set_enabled(false) may have looked before this was here.
  if (!enabled_.load(std::memory_order_acquire)) DropAll();
  return true;
}

CleanPages::Form CleanPages::Take(Address page) {
  std::unique_ptr<ChunkForms> emptied;
  Form taken;
  {
    MutexLock lock(mutex_);
    auto found = forms_.find(ChunkNumber(page));
    if (found == forms_.end()) return {};
    Form& form = found->second->forms[PageInChunk(page)];
    taken.hash = form.hash;
    taken.entry = TakeOut(*found->second, form);
    emptied = TakeEmptyLocked(found);
  }
  if (emptied != nullptr) ReleaseAll(*emptied);
  return taken;
}

std::optional<PageEntry> CleanPages::Reuse(Address page,
                                           std::span<const std::byte, kPageBytes> bytes) {
  if (chunks_.load(std::memory_order_relaxed) == 0) return std::nullopt;
  auto [entry, hash] = Take(page);
  if (entry == PageEntry()) return std::nullopt;
  bool same = hash == HashOf(bytes);
  Learn(same);
  if (!same) {
    store_.clean.changed.fetch_add(1, std::memory_order_relaxed);
    Release(entry);
    return std::nullopt;
  }
  store_.clean.reused.fetch_add(1, std::memory_order_relaxed);
  store_.clean.pages.fetch_sub(1, std::memory_order_relaxed);
  store_.clean.object_bytes.fetch_sub(BytesOf(entry), std::memory_order_relaxed);
  return entry;
}

void CleanPages::Release(PageEntry entry) {
  store_.clean.pages.fetch_sub(1, std::memory_order_relaxed);
  store_.clean.object_bytes.fetch_sub(BytesOf(entry), std::memory_order_relaxed);
  store_.Release(entry);
}

void CleanPages::ReleaseAll(const ChunkForms& forms) {
  for (const Form& form : forms.forms) {
    if (form.entry != PageEntry()) Release(form.entry);
  }
  store_.clean.metadata_bytes.fetch_sub(sizeof(ChunkForms), std::memory_order_relaxed);
}

template <typename Unwanted>
void CleanPages::DropForms(Unwanted unwanted) {
  if (chunks_.load(std::memory_order_relaxed) == 0) return;
  std::vector<std::unique_ptr<ChunkForms>> dropped;
  {
    MutexLock lock(mutex_);
    for (auto at = forms_.begin(); at != forms_.end();) {
      auto here = at++;
      if (!unwanted(*here->second)) continue;
      dropped.push_back(std::move(here->second));
      forms_.erase(here);
    }
    chunks_.store(forms_.size(), std::memory_order_relaxed);
  }
  for (const std::unique_ptr<ChunkForms>& forms : dropped) ReleaseAll(*forms);
}

void CleanPages::Drop(AddressRange range) {
  if (range.empty() || chunks_.load(std::memory_order_relaxed) == 0) return;
  std::vector<PageEntry> dropped;
  auto drop_from = [&](uint64_t number, ChunkForms& forms) {
    Address start = number << kChunkShift;
    AddressRange part = range.Intersect({start, start + kChunkBytes});
    for (Address page = part.start; page < part.end; page += kPageBytes) {
      PageEntry entry = TakeOut(forms, forms.forms[PageInChunk(page)]);
      if (entry != PageEntry()) dropped.push_back(entry);
    }
  };
  {
    MutexLock lock(mutex_);
    uint64_t first = ChunkNumber(range.start);
    uint64_t last = ChunkNumber(range.end - 1);
    if (last - first < forms_.size()) {
      for (uint64_t number = first; number <= last; ++number) {
        auto found = forms_.find(number);
        if (found != forms_.end()) drop_from(number, *found->second);
      }
    } else {
      for (auto& [number, forms] : forms_) drop_from(number, *forms);
    }
  }
  for (PageEntry entry : dropped) Release(entry);
}

bool CleanPages::DropIf(absl::FunctionRef<bool(PageEntry)> unwanted) {
  if (chunks_.load(std::memory_order_relaxed) == 0) return false;
  std::vector<PageEntry> dropped;
  {
    MutexLock lock(mutex_);
    for (auto& [number, forms] : forms_) {
      for (Form& form : forms->forms) {
        if (form.entry == PageEntry() || !unwanted(form.entry)) continue;
        dropped.push_back(TakeOut(*forms, form));
      }
    }
  }
  for (PageEntry entry : dropped) Release(entry);
  return !dropped.empty();
}

void CleanPages::Age() {
  uint64_t oldest;
  {
    MutexLock lock(mutex_);
    oldest = period_++;
  }
  DropForms([oldest](const ChunkForms& forms) { return forms.period < oldest; });
}

bool CleanPages::GiveUp() {
  return DropIf([](PageEntry entry) { return entry.state() == PageState::kInPool; });
}

void CleanPages::DropAll() {
  DropForms([](const ChunkForms&) { return true; });
}

void CleanPages::set_enabled(bool enabled) {
  enabled_.store(enabled, std::memory_order_release);
  if (!enabled) DropAll();
}

}  // namespace zmem
