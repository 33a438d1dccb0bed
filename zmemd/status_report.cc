#include "zmemd/status_report.h"

#include "zmemd/program_settings.h"
#include "zmemd/size_histogram.h"

namespace zmem {
namespace {

// null without a limit.
nlohmann::json DailyLeft(const BackingFile::Stats& file) {
  if (file.daily_bytes_left == UINT64_MAX) return nullptr;
  return file.daily_bytes_left;
}

nlohmann::json DescribePool(const DaemonParts& parts) {
  Zpool::Stats pool = parts.store.pool().stats();
  PageStore::Stats store = parts.store.stats();
  Upkeep::Stats upkeep = parts.upkeep.stats();
  return {{"compressor", parts.settings.current().compressor},
          {"held_bytes", pool.held_bytes},
          {"max_held_bytes", pool.max_held_bytes},
          {"kept_bytes", pool.kept_bytes},
          {"compressed_bytes", pool.live_bytes},
          {"original_bytes", parts.sessions.Sum(&ProcessCounters::stored_pages) * kPageBytes},
          {"limit_bytes", pool.limit_bytes},
          {"accept_bytes", parts.store.accept_bytes()},
          {"objects", pool.objects},
          {"same_filled_pages", parts.sessions.Sum(&ProcessCounters::same_filled_pages)},
          {"incompressible_rejects", store.incompressible_rejects},
          {"pool_full_rejects", store.pool_full_rejects},
          {"limit_rejects", pool.limit_rejects},
          {"reclaimable_bytes", pool.reclaimable_bytes},
          {"compaction_rounds", upkeep.compaction_rounds},
          {"compacted_objects", upkeep.compacted_objects},
          {"compacted_bytes", upkeep.compacted_bytes},
          {"recompressed_objects", upkeep.recompressed_objects},
          {"recompressed_bytes", upkeep.recompressed_bytes},
          {"recompress_cpu_ns", upkeep.recompress_cpu_ns},
          {"clean_pages", parts.store.clean.pages.load()},
          {"clean_bytes", parts.store.clean.object_bytes.load()},
          {"clean_reused_pages", parts.store.clean.reused.load()},
          {"clean_changed_pages", parts.store.clean.changed.load()}};
}

nlohmann::json DescribeBacking(const DaemonParts& parts) {
  if (parts.store.backing() == nullptr) return nullptr;
  BackingFile::Stats file = parts.store.backing()->stats();
  PageStore::Stats store = parts.store.stats();
  return {{"path", parts.config.backing_path},
          {"size_bytes", file.segments * BackingFile::Options().segment_bytes},
          {"held_bytes", file.held_bytes},
          {"live_bytes", file.live_bytes},
          {"objects", file.objects},
          {"segments", file.segments},
          {"free_segments", file.free_segments},
          {"reads", file.reads},
          {"writes", file.writes},
          {"bytes_read", file.bytes_read},
          {"bytes_written", file.bytes_written},
          {"fat_pages", store.fat_pages},
          {"spilled_pages", store.spilled_pages},
          {"written_back_pages", store.written_back_pages},
          {"rewritten_objects", parts.upkeep.stats().rewritten_objects},
          {"busy_rejects", store.file_busy_rejects},
          {"full_rejects", store.file_full_rejects},
          {"limit_rejects", store.file_limit_rejects},
          {"suspended_rejects", store.file_suspended_rejects},
          {"read_errors", file.io_errors_read},
          {"write_errors", file.io_errors_write},
          {"checksum_errors", file.checksum_errors},
          {"daily_left_bytes", DailyLeft(file)},
          {"disk_pages", parts.sessions.Sum(&ProcessCounters::disk_pages)},
          {"suspended", file.is_suspended}};
}

nlohmann::json DescribeHost(const DaemonParts& parts) {
  HostPressure::Stats stats = parts.pressure.stats();
  CpuLatency::Stats latency = parts.cpu_latency.stats();
  HostPressure::Memory memory = parts.pressure.ReadMemory().value_or(HostPressure::Memory());
  return {{"reclaim_mode", ReclaimModeName(parts.settings.current().mode)},
          {"available_bytes", memory.available_bytes},
          {"low_bytes", memory.low_bytes},
          {"high_bytes", memory.high_bytes},
          {"is_short", stats.is_short},
          {"shortages", stats.shortages},
          {"watches_stalls", stats.watches_stalls},
          {"stall_events", stats.stall_events},
          {"squeezed_processes", stats.programs},
          {"asked_pages", stats.asked_pages},
          {"wanted_pages", stats.wanted_pages},
          {"sees_touches", parts.sees_touches},
          {"idle_pollings", latency.holds},
          {"idle_polling_ns", latency.held_ns}};
}

uint64_t MetadataBytes(const DaemonParts& parts) {
  const BackingFile* file = parts.store.backing();
  uint64_t of_file = file == nullptr ? 0 : file->stats().metadata_bytes;
  return of_file + parts.store.pool().stats().metadata_bytes + parts.arena.held_bytes() +
         parts.store.metadata_bytes() + parts.sessions.All().size() * Process::kMetadataBytes;
}

}  // namespace

bool MaySee(const ControlPeer& peer, const Session& session) {
  return peer.uid == 0 || peer.uid == session.uid();
}

nlohmann::json DescribeStatus(const DaemonParts& parts, const ControlPeer& peer) {
  LatencyHistogram latency;
  parts.sessions.MergeFaultLatency(latency);
  return {{"schema", 1},
          {"pool", DescribePool(parts)},
          {"backing", DescribeBacking(parts)},
          {"host", DescribeHost(parts)},
          {"metadata_bytes", MetadataBytes(parts)},
          {"faults_total", parts.sessions.faults_total()},
          {"fault_latency_ns",
           {{"p50", latency.Percentile(50)},
            {"p99", latency.Percentile(99)},
            {"max", latency.max_ns()}}},
          {"processes", DescribeProcesses(parts, peer)}};
}

nlohmann::json DescribeProcesses(const DaemonParts& parts, const ControlPeer& peer) {
  nlohmann::json processes = nlohmann::json::array();
  for (const std::shared_ptr<Session>& session : parts.sessions.All()) {
    if (!session->ended() && MaySee(peer, *session)) processes.push_back(session->Describe());
  }
  return processes;
}

nlohmann::json DescribeObjects(const DaemonParts& parts, const ControlPeer& peer) {
  SizeHistogram histogram;
  for (const std::shared_ptr<Session>& session : parts.sessions.All()) {
    if (!session->ended() && MaySee(peer, *session)) histogram.Add(session->process().table);
  }
  return histogram.ToJson();
}

}  // namespace zmem
