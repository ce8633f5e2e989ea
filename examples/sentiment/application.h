// sentiment: readcsv → sentimentAnalysis → (publishSNS ∥ writeDB). See README.md.
#pragma once

#include "common/application.h"

namespace sentiment {

const examples::Application& Application();

}  // namespace sentiment
