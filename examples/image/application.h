// image: resize → predict → render. See README.md.
#pragma once

#include "common/application.h"

namespace image {

// What stands on the sign that the example photographs.
extern const std::vector<std::string> kSign;

const examples::Application& Application();

}  // namespace image
