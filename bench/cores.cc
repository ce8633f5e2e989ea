#include "cores.h"

#include <sched.h>
#include <sys/sysinfo.h>

namespace apta::bench {

void UseCores(Cores cores) {
  const int count = get_nprocs();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core = 0; core < count; ++core) {
    const bool is_last = core == count - 1;
    const bool may = cores == Cores::kAll || count == 1 || (cores == Cores::kHomes) == is_last;
    if (may) CPU_SET(static_cast<unsigned>(core), &set);
  }
  sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace apta::bench
