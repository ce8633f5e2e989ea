// The applications that this build has.
#pragma once

#include <vector>

#include "common/application.h"

namespace examples {

std::vector<const Application*> Applications();

}  // namespace examples
