// Everything a program needs from Āpta.
#pragma once

#include "apta/client.h"
#include "apta/function.h"
#include "apta/object.h"
#include "apta/server.h"
#include "apta/workflow.h"
