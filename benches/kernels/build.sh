#!/usr/bin/env bash
# Rebuilds the WebAssembly modules of the kernels, byte for byte, with a pinned C compiler.
#
#   benches/kernels/build.sh [--cache DIR]            in place, and renews SHA256SUMS
#   benches/kernels/build.sh [--cache DIR] --check    into a temporary folder, compared with it
#
# Needs Python 3 with venv, and the network the first time: the compiler is a Python package of
# 100 MB, kept in DIR (${XDG_CACHE_HOME:-~/.cache}/potluck-tasks unless given), as for the tasks.
set -euo pipefail

# -s drops names and debug sections, and with them every path.
flags=(-target wasm32-wasi -std=gnu17 -O3 -s -Wall -Wextra -Werror -msimd128)

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

kernels=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/potluck-tasks
out=$kernels
while [ $# -gt 0 ]; do
    case $1 in
        --cache) [ $# -ge 2 ] || usage; cache=$2; shift ;;
        --check) out=$(mktemp -d); trap 'rm -rf "$out"' EXIT ;;
        *) usage ;;
    esac
    shift
done
. "$kernels/../../tasks/compiler.sh"

modules=()
build() { # SOURCE MODULE FLAG...
    zig cc "${flags[@]}" "${@:3}" -o "$out/$2" "$1"
    chmod 644 "$out/$2"
    modules+=("$2")
}
cd "$kernels"
for source in *.c; do
    build "$source" "${source%.c}.wasm"
done
# The same with the instructions for it, which compilers do not use by themselves yet.
build multiply.c multiply-wide.wasm -mcpu=generic+simd128+wide_arithmetic

cd "$out"
if [ "$out" = "$kernels" ]; then
    sha256 "${modules[@]}" >SHA256SUMS
else
    sha256 "${modules[@]}" | diff "$kernels/SHA256SUMS" - >&2 ||
        { echo "the sources in $kernels make other modules than SHA256SUMS says" >&2; exit 1; }
    (cd "$kernels" && sha256 "${modules[@]}") | diff "$kernels/SHA256SUMS" - >&2 ||
        { echo "the modules in $kernels are not those of SHA256SUMS" >&2; exit 1; }
    echo "${#modules[@]} modules are as SHA256SUMS says"
fi
