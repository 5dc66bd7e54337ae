#include "machine.hpp"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <locale>
#include <set>
#include <string>

#include "error.hpp"

namespace edgetok_impl {

namespace {

// Numbers in it are read as the kernel writes them, whatever the program's locale.
std::ifstream open_plain(const std::string& path) {
  std::ifstream file;
  file.imbue(std::locale::classic());
  file.open(path);
  return file;
}

std::string read_first_line(const std::string& path) {
  std::ifstream file = open_plain(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// A line "name:   1234 kB" of a file.
std::int64_t field_bytes(const char* path, const std::string& name) {
  std::ifstream file = open_plain(path);
  for (std::string word; file >> word;) {
    if (word != name + ":") continue;
    std::int64_t kib = -1;
    file >> kib;
    return file && kib >= 0 ? kib * 1024 : -1;
  }
  return -1;
}

// Pages of files that can be dropped, which count as used.
std::int64_t droppable_bytes() {
  std::ifstream file = open_plain("/sys/fs/cgroup/memory.stat");
  std::string name;
  for (std::int64_t bytes = 0; file >> name >> bytes;) {
    if (name == "inactive_file") return bytes;
  }
  return 0;
}

// Of the cgroup, version 2; a version 1 is not looked at.
std::int64_t cgroup_left() {
  const std::string limit = read_first_line("/sys/fs/cgroup/memory.max");
  const std::string used = read_first_line("/sys/fs/cgroup/memory.current");
  const auto is_number = [](const std::string& s) {
    return !s.empty() && s.size() < 19 && s.find_first_not_of("0123456789") == std::string::npos;
  };
  if (!is_number(limit) || !is_number(used)) return -1;
  return std::max<std::int64_t>(0, std::stoll(limit) - std::stoll(used) + droppable_bytes());
}

}  // namespace

int physical_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string name = std::to_string(cpu);
    const std::string siblings =
        read_first_line("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

int pick_threads(int threads) {
  if (threads == 0) return physical_cores();
  if (threads < 1 || threads > 1024) throw usage_error("threads " + std::to_string(threads) + " is outside 1..1024");
  return threads;
}

bool overflows_in_int8() {
#if defined(__x86_64__)
  static const bool kOverflows = [] {
    std::ifstream file = open_plain("/proc/cpuinfo");
    for (std::string word; file >> word;) {
      if (word == "avx512_vnni" || word == "avx_vnni") return false;
    }
    return true;
  }();
  return kOverflows;
#else
  return false;
#endif
}

std::int64_t available_bytes() {
  const auto system = field_bytes("/proc/meminfo", "MemAvailable"), group = cgroup_left();
  return group < 0 || (system >= 0 && system < group) ? system : group;
}

std::int64_t resident_bytes() { return field_bytes("/proc/self/smaps_rollup", "Pss"); }

}  // namespace edgetok_impl
