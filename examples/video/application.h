// video: locateKeyFrames → splitVideo → analyze (each part) → validate → concat. See README.md.
#pragma once

#include "common/application.h"

namespace video {

const examples::Application& Application();

}  // namespace video
