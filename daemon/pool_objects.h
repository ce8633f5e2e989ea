// The objects of a pool, all of them, in and out: what its log's recovery and checkpoints need.
#pragma once

#include "absl/status/status.h"
#include "daemon/log/log_reader.h"
#include "daemon/pool.h"

namespace apta::daemon {

// Puts an object that the pool does not have into it. Before the first home is made, on one thread.
// RESOURCE_EXHAUSTED: the pool is smaller than what it once held.
absl::Status LoadObject(Pool* pool, const log::LoggedObject& object);

// Visits all objects, each whole, while homes change them: of one that is changed meanwhile either
// version, or none. From any thread.
absl::Status VisitObjects(const Pool& pool, const log::ObjectVisitor& visit);

}  // namespace apta::daemon
