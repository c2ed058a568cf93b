#pragma once

namespace braid {

// What /proc says of this process, now. Values that cannot be read are 0.
struct ProcessStats {
  double cpu_seconds = 0;
  double resident_bytes = 0;
  double virtual_bytes = 0;
  double open_fds = 0;
  double max_fds = 0;
  double start_time_seconds = 0;  // since the Unix epoch
  double threads = 0;
};

ProcessStats ReadProcessStats();

}  // namespace braid
