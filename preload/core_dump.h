// Core dumps with the program's real memory in them (FACTS 19): the kernel writes zeros for pages
// that are out, so they have to come back before a fatal signal takes its course.
#pragma once

namespace zmem {

// Catches the signals that dump core, as far as the program leaves them at their default, and lets
// each take its course once every page is back. Errors are ignored: such a signal then is as it
// was. A stack that has overflowed, and SIGKILL, leave no room for it.
void CatchCoreDumps();

}  // namespace zmem
