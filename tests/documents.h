// What a real service keeps in memory, made up: customer records and orders in JSON, access logs,
// letters, and pictures that are compressed already. The document of an index is always the same,
// so that whoever reads one back can tell whether it is right without keeping a copy.
// Pure functions of the index.
#pragma once

#include <cstdint>
#include <string>

namespace zmem {

// The key under which document `index` is stored, such as "order:0000017".
std::string DocumentKey(uint64_t index);

// The document itself: 1 to 24 KiB, 3.6 KiB on average. Of all bytes about one in twenty belongs to
// pictures (random bytes).
std::string Document(uint64_t index);

}  // namespace zmem
