// Who runs where, in the suites and beside the peers.
#pragma once

namespace apta::bench {

// Where the calling thread, and what it begins from now on, may run. Homes have the last core to
// themselves where there are several, whoever calls them the others: else it is chance who meets
// whom, which a message notices more than anything else.
enum class Cores { kAll, kHomes, kCallers };
void UseCores(Cores cores);

}  // namespace apta::bench
