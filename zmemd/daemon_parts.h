// What zmemd consists of besides its connections, for those who report and change it. The server
// owns all of it.
#pragma once

#include "libzmem/base/cpu_latency.h"
#include "libzmem/store/page_store.h"
#include "libzmem/store/page_table.h"
#include "libzmem/store/upkeep.h"
#include "zmemd/config.h"
#include "zmemd/host_pressure.h"
#include "zmemd/housekeeper.h"
#include "zmemd/live_settings.h"
#include "zmemd/session_list.h"

namespace zmem {

struct DaemonParts {
  const Config& config;  // as it was at the start
  LiveSettings& settings;
  SessionList& sessions;
  PageStore& store;
  const ChunkArena& arena;
  const Upkeep& upkeep;
  Housekeeper& housekeeper;
  const CpuLatency& cpu_latency;
  const HostPressure& pressure;
  bool sees_touches;  // of programs, by accessed bits
};

}  // namespace zmem
