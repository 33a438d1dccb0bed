// What zmemd tells of itself: the answers to zmemctl status, ps and histogram, whose fields
// docs/statistics.md explains. Each peer sees the processes of its own user, root all.
// Thread-safe: no state. Programs do not wait for it.
#pragma once

#include <nlohmann/json.hpp>

#include "zmemd/control.h"
#include "zmemd/daemon_parts.h"

namespace zmem {

bool MaySee(const ControlPeer& peer, const Session& session);

nlohmann::json DescribeStatus(const DaemonParts& parts, const ControlPeer& peer);
nlohmann::json DescribeProcesses(const DaemonParts& parts, const ControlPeer& peer);
// Sizes of the objects stored of all processes that are the peer's.
nlohmann::json DescribeObjects(const DaemonParts& parts, const ControlPeer& peer);

}  // namespace zmem
