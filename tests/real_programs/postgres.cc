// PostgreSQL as an unprivileged user: many backends with small shared buffers, a storm of new
// connections, and tables that must balance and be the same row for row.
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "tests/real_programs/program.h"

namespace zmem {
namespace {

using std::chrono::seconds;

constexpr uid_t kNobody = 65534;  // the server refuses to run as root
constexpr seconds kStartTimeout{60};
constexpr seconds kStopTimeout{120};

// Debian keeps the server's programs of each version in a directory outside of PATH. Returns the
// newest that has them all, or nothing.
std::string ProgramDirectory() {
  std::string newest;
  std::error_code ignored;
  for (const auto& version : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    std::string directory = version.path() / "bin";
    if (access((directory + "/pg_amcheck").c_str(), X_OK) == 0 &&
        access((directory + "/initdb").c_str(), X_OK) == 0) {
      newest = std::max(newest, directory);
    }
  }
  return newest;
}

constexpr char kSettings[] =
    "listen_addresses = ''\nshared_buffers = 2MB\nwork_mem = 16MB\nmaintenance_work_mem = 16MB\n"
    "max_connections = 60\nfsync = off\nautovacuum_naptime = 1s\nmax_wal_size = 64MB\n"
    "checkpoint_timeout = 30s\nlog_min_messages = warning\n";

// Sorts that fill a backend's own memory.
constexpr char kSorts[] =
    "SELECT md5(string_agg(h, '')) FROM (SELECT md5((aid * 7)::text) AS h FROM pgbench_accounts "
    "WHERE aid % 4 = :client_id % 4 ORDER BY h) AS sorted;\n";

// Everything that pgbench changed. Its transactions add up whatever their order, and with a given
// seed and number of transactions they are always the same.
constexpr char kChecksums[] =
    "SELECT 'accounts', count(*), sum(abalance), md5(string_agg(aid || ':' || abalance, ',' ORDER "
    "BY aid)) FROM pgbench_accounts;"
    "SELECT 'tellers', count(*), sum(tbalance), md5(string_agg(tid || ':' || tbalance, ',' ORDER "
    "BY tid)) FROM pgbench_tellers;"
    "SELECT 'branches', count(*), sum(bbalance), md5(string_agg(bid || ':' || bbalance, ',' ORDER "
    "BY bid)) FROM pgbench_branches;"
    "SELECT 'history', count(*), sum(delta), md5(string_agg(concat(tid, ':', bid, ':', aid, ':', "
    "delta), ',' ORDER BY tid, bid, aid, delta)) FROM pgbench_history;";

constexpr char kBalanced[] =
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM "
    "pgbench_history) AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM "
    "pgbench_branches) AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) "
    "FROM pgbench_tellers);";

class Cluster {
 public:
  explicit Cluster(const Stage& stage)
      : stage_(stage), programs_(ProgramDirectory()), data_(stage.directory().File("data")) {
    std::filesystem::create_directory(data_);
    CheckErrno(chown(data_.c_str(), kNobody, kNobody), "chown " + data_);
    Run("initdb", {"-D", data_, "-U", "postgres", "-A", "trust", "-k", "--no-sync",
                   "--no-instructions", "--locale=C.UTF-8"});
    std::ofstream(data_ + "/postgresql.conf", std::ios::app) << kSettings;
    server_.emplace(Command("postgres", {"-D", data_, "-k", data_}));
    WaitUntil("postgres to accept", kStartTimeout, [this] {
      if (!server_->Running()) throw HarnessError("postgres ended: " + server_->errors());
      return RunCommand(Command("pg_isready", {"-q", "-h", data_}), kStartTimeout)
          .status.Succeeded();
    });
  }

  // Runs one of its programs as its user.
  std::string Run(const std::string& program, const std::vector<std::string>& arguments) const {
    return stage_.Run(Command(program, arguments)).output;
  }

  // Runs a client with the options that find the server.
  std::string RunClient(const std::string& program, std::vector<std::string> arguments) const {
    arguments.insert(arguments.begin(), {"-h", data_, "-U", "postgres"});
    return Run(program, arguments);
  }

  std::string Query(const std::string& sql) const {
    return RunClient(
        "psql", {"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql});
  }

  // An orderly end; then it checks the checksum of every page on disk.
  void Stop() {
    server_->Signal(SIGINT);
    ExitStatus status = server_->Wait(kStopTimeout);
    if (!status.Succeeded()) {
      throw HarnessError(
          absl::StrCat("postgres: ", status.ToString(), "\n", Tail(server_->errors(), 30)));
    }
    Run("pg_checksums", {"--check", "-D", data_});
  }

 private:
  ChildOptions Command(const std::string& program,
                       const std::vector<std::string>& arguments) const {
    std::vector<std::string> argv = {programs_ + "/" + program};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    ChildOptions options = stage_.Options(argv);
    options.uid = kNobody;
    options.env["LC_ALL"] = "C.UTF-8";
    return options;
  }

  const Stage& stage_;
  const std::string programs_;
  const std::string data_;
  std::optional<Child> server_;
};

void Load(const Cluster& cluster, bool brief) {
  cluster.RunClient("pgbench", {"-i", "-q", "-s", brief ? "2" : "5", "postgres"});
  cluster.RunClient("pgbench", {"-n", "--random-seed=7", "-c", "20", "-j", "2", "-t",
                                brief ? "10" : "100", "postgres"});
  // A backend per transaction: the managed server forks all the time.
  cluster.RunClient("pgbench", {"-n", "--random-seed=8", "-C", "-c", "10", "-j", "2", "-t",
                                brief ? "5" : "20", "postgres"});
}

std::string RunPostgres(Stage& stage) {
  Cluster cluster(stage);
  Load(cluster, stage.brief());
  std::string sorts = stage.directory().Write("sorts.sql", kSorts);
  cluster.RunClient("pgbench", {"-n", "-f", sorts, "-c", "8", "-j", "2", "-t",
                                stage.brief() ? "2" : "6", "postgres"});
  if (cluster.Query(kBalanced) != "t\n") {
    throw HarnessError("the balances do not add up:\n" + cluster.Query(kChecksums));
  }
  std::string checksums = cluster.Query(kChecksums);
  cluster.Query("CREATE EXTENSION amcheck");
  cluster.RunClient("pg_amcheck", {"--heapallindexed", "--parent-check", "postgres"});
  cluster.Stop();
  return checksums;
}

}  // namespace

Program Postgres() {
  return {
      .name = "postgres",
      .what = "pgbench, 20 backends and a connection storm; pg_amcheck",
      .packages = {"postgresql"},
      .is_installed = [] { return !ProgramDirectory().empty() && getpwuid(kNobody) != nullptr; },
      .run = RunPostgres,
      .in_test = true};
}

}  // namespace zmem
