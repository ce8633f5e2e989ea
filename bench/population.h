// When a memory server's pools are as they will stay.
#pragma once

#include "apta/apta.h"

namespace apta::bench {

// Returns when every pool of the client's memory server is populated: its pages are there and of
// their final size, so that what is measured from now on meets the same memory. DEADLINE_EXCEEDED:
// a pool has not grown for a minute (names it, and how far it is).
absl::Status AwaitPopulation(const Client& client);

}  // namespace apta::bench
