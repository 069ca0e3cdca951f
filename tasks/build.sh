#!/usr/bin/env bash
# Rebuilds the WebAssembly modules of the tasks, byte for byte, with a pinned C compiler.
#
#   tasks/build.sh [--cache DIR]            in place, and renews SHA256SUMS
#   tasks/build.sh [--cache DIR] OUT        into OUT, as OUT/<name>/<name>.wasm
#   tasks/build.sh [--cache DIR] --check    into a temporary folder, compared with SHA256SUMS
#
# Needs Python 3 with venv, and the network the first time: the compiler is a Python package of
# 100 MB, kept in DIR (${XDG_CACHE_HOME:-~/.cache}/potluck-tasks unless given).
set -euo pipefail

# 64 KiB of stack instead of 16 MiB: a task's memory is part of what peers compare, so its size
# costs time in every unit. -s drops names and debug sections, and with them every path.
flags=(-target wasm32-wasi -std=c17 -O2 -s -Wall -Wextra -Werror -Wl,-z,stack-size=65536)

usage() {
    sed -n 's/^#   //p' "$0" >&2
    exit 2
}

tasks=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/potluck-tasks
check=false
out=
while [ $# -gt 0 ]; do
    case $1 in
        --cache) [ $# -ge 2 ] || usage; cache=$2; shift ;;
        --check) check=true ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift
done
if $check; then
    [ -z "$out" ] || usage
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
out=${out:-$tasks}
mkdir -p "$out"
out=$(cd "$out" && pwd)

. "$tasks/compiler.sh"

modules=()
for source in "$tasks"/*/*.c; do
    name=$(basename "$source" .c)
    mkdir -p "$out/$name"
    (cd "$tasks" && zig cc "${flags[@]}" \
        -o "$out/$name/$name.wasm" "$name/$name.c")
    chmod 644 "$out/$name/$name.wasm"
    modules+=("$name/$name.wasm")
done

cd "$out"
if $check; then
    sha256 "${modules[@]}" | diff "$tasks/SHA256SUMS" - >&2 ||
        { echo "the sources in $tasks make other modules than SHA256SUMS says" >&2; exit 1; }
    (cd "$tasks" && sha256 "${modules[@]}") | diff "$tasks/SHA256SUMS" - >&2 ||
        { echo "the modules in $tasks are not those of SHA256SUMS" >&2; exit 1; }
    echo "${#modules[@]} modules are as SHA256SUMS says"
elif [ "$out" = "$tasks" ]; then
    sha256 "${modules[@]}" >SHA256SUMS
else
    sha256 "${modules[@]}"
fi
