#include "monitoring/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace braid {
namespace {

// The fields of /proc/self/stat behind the command name, which may hold spaces and brackets: "state" is number 0.
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t bracket = line.rfind(')');
  std::vector<std::string> fields;
  if (bracket == std::string::npos) return fields;
  std::istringstream rest(line.substr(bracket + 1));
  for (std::string field; rest >> field;) fields.push_back(field);
  return fields;
}

double BootTimeSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    double seconds = 0;
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  const std::vector<std::string> fields = StatFields();
  if (fields.size() > 21) {  // proc(5): utime, stime, num_threads, starttime, vsize, rss are 14, 15, 20, 22, 23, 24
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    stats.cpu_seconds = (std::stod(fields[11]) + std::stod(fields[12])) / ticks;
    stats.threads = std::stod(fields[17]);
    static const double boot_time_seconds = BootTimeSeconds();
    stats.start_time_seconds = boot_time_seconds + std::stod(fields[19]) / ticks;
    stats.virtual_bytes = std::stod(fields[20]);
    stats.resident_bytes = std::stod(fields[21]) * static_cast<double>(sysconf(_SC_PAGESIZE));
  }
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end; !error && entry != end;
       entry.increment(error))
    ++stats.open_fds;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<double>(limit.rlim_cur);
  return stats;
}

}  // namespace braid
