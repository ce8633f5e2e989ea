// What a checksum of a payload costs.
#pragma once

namespace apta::bench {

// Registers "checksum/how:xxh3|crc32c|crc32c_x3/size:N".
void AddChecksums();

}  // namespace apta::bench
