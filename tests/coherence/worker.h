// The processes of the coherence test: two threads that use a few keys at random and record it, and
// in some of them a function that reads a key.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "apta/apta.h"
#include "tests/coherence/recorder.h"

namespace apta::test {

inline constexpr std::uint64_t kKeyCount = 64;
inline constexpr int kWorkerThreads = 2;

// Log-uniform: a sixth of all operations are on key 0, a hundredth on each of the last ones.
std::uint64_t RandomKey(std::mt19937_64* random);
std::string KeyName(std::uint64_t key);

// A value is a number that is repeated; how often follows from the number. Most are below 4 KiB.
Bytes MakeValue(std::uint64_t value);
// The number; 0 if the bytes are of more than one value, or not all of one.
std::uint64_t ValueOf(BytesView bytes);

// What `read` returns: what its key was.
struct ReadResult {
  std::uint64_t value = 0, version = 0;
};
inline constexpr const char* kReadFunction = "read";

// For the test itself, process 0. One thread that writes keys, and then has them read by functions;
// until the recording stops. Counts what it can't explain as a fault.
void CallReads(Client* client, Recording* recording, std::uint64_t seed);

// Likewise: reads each key once.
void ReadAll(Client* client, Recording* recording);

// {socket, path of the recording, number of the process, from 1; seed, "host" or "plain"}: until
// the recording stops. Its exit code.
int RunWorker(const std::vector<std::string>& role);

}  // namespace apta::test
