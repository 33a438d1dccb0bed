// Memory for direct I/O: whole pages, zeroed, outside of the heap, so that the kernel may go on
// writing to pages of a buffer that is given back. Not thread-safe.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace zmem {

class AlignedMemory {
 public:
  // Check data(): nullptr if there is no memory.
  explicit AlignedMemory(size_t bytes) : bytes_(bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED) data_ = static_cast<std::byte*>(data);
  }
  AlignedMemory(AlignedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  AlignedMemory& operator=(AlignedMemory&&) = delete;
  ~AlignedMemory() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_;
};

}  // namespace zmem
