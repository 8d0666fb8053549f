#!/usr/bin/env bash
# Cross-compiles the core and its C++ tests for 64-bit ARM and runs them under QEMU.
# Needs cmake, ninja, g++-aarch64-linux-gnu and qemu-user (Debian's names). Without them it says so
# and passes, unless REQUIRE=1.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
build=${BUILD:-build/aarch64}

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
missing=""
for tool in cmake ninja aarch64-linux-gnu-g++; do
  command -v "$tool" > /dev/null || missing+=" $tool"
done
[[ -n $qemu ]] || missing+=" qemu-aarch64"
if [[ -n $missing ]]; then
  echo "SKIPPED aarch64: not installed:$missing (apt-get install g++-aarch64-linux-gnu qemu-user)"
  exit "${REQUIRE:-0}"
fi

cmake --fresh -S . -B "$build" -G Ninja \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  -DCMAKE_CROSSCOMPILING_EMULATOR="$qemu;-L;/usr/aarch64-linux-gnu" \
  -DATTENDRITE_BUILD_PYTHON=OFF -DATTENDRITE_BUILD_TESTS=ON -DATTENDRITE_WERROR=ON
cmake --build "$build"
ctest --test-dir "$build" --output-on-failure
