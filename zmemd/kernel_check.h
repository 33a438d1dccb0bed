// What zmemd needs of the kernel, tried on itself before any program is touched.
#pragma once

#include "absl/status/statusor.h"
#include "libzmem/base/sys.h"

namespace zmem {

// Returns an open /dev/userfaultfd after a page of this process was moved with it and read back.
// Errors: FailedPrecondition when the kernel or the page size does not do, PermissionDenied when
// the device or the fork event may not be used; each says what is needed.
absl::StatusOr<UniqueFd> CheckKernel();

}  // namespace zmem
