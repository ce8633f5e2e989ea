// finra: (fetchMarket ∥ fetchPortfolios) → (volume ∥ trdate ∥ lastpx ∥ side) → marginBalance. See
// README.md.
#pragma once

#include "common/application.h"

namespace finra {

const examples::Application& Application();

}  // namespace finra
