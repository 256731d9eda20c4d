#!/usr/bin/env bash
# Installs the library, and uses it from outside of the build tree in the ways that docs/embedding.md shows, word for word: all
# snippets are compiled, the commands are run.
#
#   install_test.sh BUILD SOURCE    folders of the build and of the repository
set -euo pipefail

build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
page=$source/docs/embedding.md
golden=$source/tests/golden/v1
prefix=$work/prefix

cmake --install "$build" --prefix "$prefix" >"$work/install.log"
export PATH=$prefix/bin:$PATH
lib=$(dirname "$(find "$prefix" -name librdeic.so -print -quit)")
[[ -n $lib ]] || { echo "nothing was installed" >&2; exit 1; }

# Prints the block that follows the line `<!-- test: NAME -->`.
block() {
    awk -v mark="<!-- test: $1 -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }' "$page" | grep . || { echo "no block marked 'test: $1' in $page" >&2; return 1; }
}

# Prints every block of a language as the body of a function: $2 is printed before each, $3 after it.
functions() {
    awk -v language="$1" -v before="$2" -v after="$3" '
        /^```/ { if (inside) { print after; inside = 0 } else if ($0 == "```" language) { inside = 1; printf before "\n", ++n }; next }
        inside { print }
        END { if (n < 2) { print "found " n " blocks of " language > "/dev/stderr"; exit 1 } }' "$page"
}

{
    printf '#include <rdeic/rdeic.h>\n#include <stdio.h>\n#include <stdlib.h>\n'
    functions c 'void snippet_%d(rdeic_bundle* bundle, rdeic_decoder* decoder, const uint8_t* data, size_t data_bytes, rdeic_error* error) {{' '}}'
} >"$work/snippets.c"
{
    printf '#include <atomic>\n#include <cstdio>\n#include <rdeic/rdeic.hpp>\n'
    functions cpp 'void snippet_%d(rdeic::Decoder decoder, std::span<const std::uint8_t> data) {{' '}}'
} >"$work/snippets.cc"

echo "== one version"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml")
[[ $(rdeic --version) == "rdeic $version" ]]
[[ $(PKG_CONFIG_PATH=$lib/pkgconfig pkg-config --modversion rdeic) == "${version%.dev*}" ]]

echo "== find_package"
block cmake >"$work/snippet.cmake"
cmake -S "$source/tests/cpp/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$prefix" -DSNIPPET="$work/snippet.cmake" \
    -DSOURCES="$source/runtime/cpp/examples/decode_memory.c;$work/snippets.c;$work/snippets.cc" >"$work/configure.log"
cmake --build "$work/consumer"

echo "== pkg-config"
cp "$source/runtime/cpp/examples/decode_memory.c" "$work"
(cd "$work" && export PKG_CONFIG_PATH=$lib/pkgconfig && eval "$(block pkg-config)")

echo "== both decode a file, and so does the command, to the same image"
LD_LIBRARY_PATH=$lib "$work/decode_memory" "$golden/bundle" "$golden/rocket_r0.rdc" >"$work/pkg-config.ppm"
"$work/consumer/program" "$golden/bundle" "$golden/rocket_r0.rdc" >"$work/cmake.ppm"
rdeic decode "$golden/rocket_r0.rdc" -b "$golden/bundle" -o "$work/command.ppm"
cmp "$work/pkg-config.ppm" "$work/cmake.ppm"
cmp "$work/pkg-config.ppm" "$work/command.ppm"

echo "== the commands of the page"
mkdir "$work/photos" "$work/bundles"
cp "$golden/rocket_r0.rdc" "$work/photos/photo.rdc"
ln -s "$golden/bundle" "$work/bundles/tiny-2"
(cd "$work/photos" && export RDEIC_RT_BUNDLES=$work/bundles && eval "$(block command)" && [[ -s photo.png && -s quick.ppm ]])

echo "== the header is C99 and C++17, alone"
printf '#include <rdeic/rdeic.h>\n' >"$work/alone.c"
cc -std=c99 -pedantic-errors -Wall -Wextra -Werror -I"$prefix/include" -c "$work/alone.c" -o "$work/alone.o"
c++ -x c++ -std=c++17 -pedantic-errors -Wall -Wextra -Werror -I"$prefix/include" -c "$work/alone.c" -o "$work/alone.o"

echo "== and it needs no exceptions, which rdeic.hpp says that it does"
c++ -x c++ -std=c++17 -fno-exceptions -fno-rtti -Wall -Wextra -Werror -I"$prefix/include" -c "$work/alone.c" -o "$work/alone.o"
printf '#include <rdeic/rdeic.hpp>\n' >"$work/alone.cc"
c++ -std=c++20 -I"$prefix/include" -c "$work/alone.cc" -o "$work/alone.o"
(c++ -std=c++20 -fno-exceptions -I"$prefix/include" -c "$work/alone.cc" -o "$work/alone.o" 2>&1 || true) | grep -q 'use rdeic.h'

echo "== nothing but the C functions is visible"
nm -D --defined-only "$lib/librdeic.so" | awk '{ print $3 }' | sort >"$work/exported"
grep -o 'RDEIC_API [^(;]*(' "$source/runtime/cpp/include/rdeic/rdeic.h" | sed -n 's/.*[ *]\(rdeic_[a-z_]*\)($/\1/p' | sort >"$work/declared"
diff "$work/declared" "$work/exported"

if [[ -d $prefix/share/rdeic/engines/tiny-2 ]]; then
    echo "== the bundle is installed"
    (unset RDEIC_RT_BUNDLES; XDG_CACHE_HOME=$work rdeic decode "$golden/rocket_r0.rdc" -o "$work/x.png" 2>&1 || true) | grep -q "looked at .*$prefix/share/rdeic/engines/tiny-2"
    rdeic info "$prefix/share/rdeic/engines/tiny-2"
fi
