#!/usr/bin/env bash
# run.sh BUILD_DIR: installs BUILD_DIR to a folder of its own, and builds and runs the outside
# project against it with find_package(apta) and with pkg-config.
set -euo pipefail
build=$(realpath "$1")
source=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
expect() {
  local said
  said=$("$1" "$folder")
  [ "$said" = "hello from outside" ] || { echo "$1 said: $said" >&2; exit 1; }
}

cmake --install "$build" --prefix "$folder/tree" >/dev/null
cmake -S "$source" -B "$folder/build" -G Ninja -DCMAKE_PREFIX_PATH="$folder/tree" >/dev/null
cmake --build "$folder/build"
expect "$folder/build/consumer"
echo "find_package(apta): ok"

pc=$(dirname "$(find "$folder/tree" -name apta.pc)")
flags=$(PKG_CONFIG_PATH="$pc" pkg-config --cflags --libs apta)
# shellcheck disable=SC2086
c++ "$source/consumer.cc" -o "$folder/by-pkg-config" $flags
expect "$folder/by-pkg-config"
echo "pkg-config apta: ok"

"$folder/tree/bin/aptad" --version
"$folder/tree/bin/apta" --version
