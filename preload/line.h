// One line of text for stderr, built without libc and without allocation. Text that does not fit is
// cut.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zmem {

class Line {
 public:
  Line& operator<<(const char* text) {
    while (*text != '\0') Add(*text++);
    return *this;
  }
  Line& operator<<(uint64_t number) {
    char digits[20];
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    while (count > 0) Add(digits[--count]);
    return *this;
  }

  const char* data() const { return text_; }
  size_t length() const { return length_; }

 private:
  void Add(char c) {
    if (length_ < sizeof text_) text_[length_++] = c;
  }

  char text_[400];
  size_t length_ = 0;
};

}  // namespace zmem
