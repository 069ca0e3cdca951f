# The pinned C compiler for WebAssembly: to be sourced, after `cache` says in which folder to keep
# it. A script that has done so calls zig, and can name the sum of what came out.

compiler=ziglang==0.17.0
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

sha256() { # FILE...
    if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

zig() { # ARGUMENTS...
    "$cache/$compiler/bin/python" -m ziglang "$@"
}

if [ ! -e "$cache/$compiler/complete" ]; then
    python3 -m venv "$cache/$compiler"
    "$cache/$compiler/bin/pip" install --quiet --disable-pip-version-check "$compiler"
    touch "$cache/$compiler/complete"
fi
export ZIG_GLOBAL_CACHE_DIR=$cache/zig ZIG_LOCAL_CACHE_DIR=$cache/zig
