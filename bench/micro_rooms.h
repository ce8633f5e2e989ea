// The parts of the hot paths that lie within other rooms: the cache, pins, the object manager.
#pragma once

namespace apta::bench {

void AddRooms();

}  // namespace apta::bench
