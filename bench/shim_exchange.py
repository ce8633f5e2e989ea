#!/usr/bin/env python3
"""How long a NumPy array takes from a producer to a consumer, programs that know nothing of Āpta.

Usage: bench/shim_exchange.py [--mib 64] [--rounds 5] [--build build/release]
Needs python3-numpy; redis-server and the redis-cli's package python3-redis for the row `redis`.

  apta    two compute servers: each side under `apta exec` with a node of its own
  shm     one machine: the same programs in plain /dev/shm
  redis   pickled, through a redis-server on a Unix socket
  copy    the array copied once, in one process

A round: the producer makes a shared-memory block, fills it from the array and closes it; then the
consumer opens it and adds it up. Medians of rounds, in ms, by each side's own clock.
"""
import argparse
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy


def since(start):
    return 1000 * (time.perf_counter() - start)


def block_of(name, **options):
    from multiprocessing import resource_tracker, shared_memory
    block = shared_memory.SharedMemory(name, **options)
    # Else the first process to end takes the other's block away.
    resource_tracker.unregister(block._name, "shared_memory")
    return block


def produce_shared(array, name):
    block = block_of(name, create=True, size=array.nbytes)
    shared = numpy.ndarray(array.shape, array.dtype, buffer=block.buf)
    shared[:] = array
    del shared
    block.close()


def consume_shared(name):
    block = block_of(name)
    shared = numpy.ndarray((block.size // 8,), numpy.float64, buffer=block.buf)
    total = shared.sum()
    del shared
    block.close()
    return total


def redis_at(path):
    import redis
    return redis.Redis(unix_socket_path=path)


def work(side, how, name, floats, rounds):
    """A side, in step with the other through this process's standard streams."""
    array = numpy.arange(floats, dtype=numpy.float64)
    for number in range(rounds):
        sys.stdin.readline()
        start = time.perf_counter()
        if how == "redis" and side == "produce":
            redis_at(name).set("array", pickle.dumps(array, protocol=5))
        elif how == "redis":
            total = pickle.loads(redis_at(name).get("array")).sum()
        elif side == "produce":
            produce_shared(array, f"{name}-{number}")
        else:
            total = consume_shared(f"{name}-{number}")
        took = since(start)
        if side == "consume":
            assert total == array.sum(), "not what was produced"
        print(took, flush=True)


def measure(how, name, floats, rounds, prefixes):
    sides = [
        subprocess.Popen(
            [*prefix, sys.executable, __file__, "--work", side, how, name, str(floats), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side, prefix in zip(("produce", "consume"), prefixes)]
    took = ([], [])
    for _ in range(rounds):
        for side, times in zip(sides, took):
            print(file=side.stdin, flush=True)
            times.append(float(side.stdout.readline()))
    for side in sides:
        side.stdin.close()
        side.wait()
    produced, consumed = map(statistics.median, took)
    print(f"{how:6} {produced:9.1f} {consumed:9.1f} {produced + consumed:9.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--build", default="build/release")
    options = parser.parse_args()
    floats = options.mib * (1 << 20) // 8
    print(f"{options.mib} MiB  produce   consume       sum  ms")
    with tempfile.TemporaryDirectory() as folder:
        name = "exchange-" + os.path.basename(folder)
        environment = {"APTA_SOCKET": folder + "/s"}
        os.environ.update(environment)
        server = subprocess.Popen(
            [options.build + "/daemon/aptad", "--socket", folder + "/s", "--pool",
             f"bytes={options.mib * (options.rounds + 4)}MiB"], stderr=subprocess.PIPE, text=True)
        while "serving" not in server.stderr.readline():
            pass
        apta = options.build + "/tools/apta"
        nodes = [[apta, "exec", "--node", f"{name}-{side}", "--"] for side in "ab"]
        measure("apta", name, floats, options.rounds, nodes)
        server.terminate()
        server.wait()
        measure("shm", name, floats, options.rounds, [[], []])
        for number in range(options.rounds):
            os.unlink(f"/dev/shm/{name}-{number}")
        try:
            import redis  # noqa: F401
            available = shutil.which("redis-server") is not None
        except ImportError:
            available = False
        if available:
            path = folder + "/redis"
            server = subprocess.Popen(
                ["redis-server", "--port", "0", "--unixsocket", path, "--save", ""],
                stdout=subprocess.DEVNULL)
            while not os.path.exists(path):
                time.sleep(0.01)
            measure("redis", path, floats, options.rounds, [[], []])
            server.terminate()
            server.wait()
        else:
            print("redis  not measured: redis-server or python3-redis is not installed")
    array = numpy.arange(floats, dtype=numpy.float64)
    other = numpy.empty_like(array)
    times = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        other[:] = array
        times.append(since(start))
    print(f"copy   {'':9} {'':9} {statistics.median(times):9.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:5], int(sys.argv[5]), int(sys.argv[6]))
    else:
        main()
