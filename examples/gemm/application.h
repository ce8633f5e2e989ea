// gemm: split → map (each slice) → splitRows → reduce (each range of rows). See README.md.
#pragma once

#include "common/application.h"

namespace gemm {

const examples::Application& Application();

}  // namespace gemm
