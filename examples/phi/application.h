// phi: identifyPHI → (deIdentify ∥ anonymize) → analytics. See README.md.
#pragma once

#include "common/application.h"

namespace phi {

const examples::Application& Application();

}  // namespace phi
