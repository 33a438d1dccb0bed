#pragma once

namespace zmem {

inline constexpr char kZmemVersion[] = "0.1.0";

}  // namespace zmem
