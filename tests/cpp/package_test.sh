#!/usr/bin/env bash
# Makes Debian packages and archives as docs/embedding.md shows, looks into them, and decodes with what they unpack to.
#
#   package_test.sh BUILD SOURCE    folders of the build and of the repository
set -euo pipefail

build=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
golden=$source/tests/golden/v1
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$source/pyproject.toml")
debian=${version/.dev/\~dev}

fail() { echo "$1" >&2; exit 1; }

# Not compressed, which would take most of the time.
(cd "$build" && cpack -B "$work" -D CPACK_DEBIAN_COMPRESSION_TYPE=none) >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

echo "== control files"
runtime=$(echo "$work"/rdeic_"$debian"_*.deb) dev=$(echo "$work"/librdeic-dev_"$debian"_*.deb)
[[ $(dpkg-deb -f "$runtime" Package Version) == $'Package: rdeic\nVersion: '"$debian" ]]
[[ $(dpkg-deb -f "$dev" Package Version) == $'Package: librdeic-dev\nVersion: '"$debian" ]]
dpkg --compare-versions "$debian" lt "${version%.dev*}.1"
[[ $version != *.dev* ]] || dpkg --compare-versions "$debian" lt "${version%.dev*}"
dpkg-deb -f "$runtime" Depends | tee "$work/depends"
for library in libc6 libssl3 libminizip1 libpng16; do grep -q "\b$library" "$work/depends" || fail "$library is not in Depends"; done
dpkg-deb -I "$runtime" postinst | grep -q ldconfig
[[ $(dpkg-deb -f "$dev" Depends) == "rdeic (= $debian)" ]]

echo "== contents"
dpkg-deb -c "$runtime" | awk '{ print $6 }' >"$work/runtime"
dpkg-deb -c "$dev" | awk '{ print $6 }' >"$work/dev"
for name in bin/rdeic 'lib/.*librdeic\.so\.[0-9.]*' share/doc/rdeic/copyright share/rdeic/engines/tiny-2/bundle.json; do
    grep -qx "\./usr/$name" "$work/runtime" || fail "$runtime has no $name"
done
for name in include/rdeic/rdeic.h include/rdeic/rdeic.hpp 'lib/.*librdeic\.so' 'lib/.*rdeic\.pc' 'lib/.*rdeicConfig\.cmake'; do
    grep -qx "\./usr/$name" "$work/dev" || fail "$dev has no $name"
    ! grep -qx "\./usr/$name" "$work/runtime" || fail "$runtime has $name"
done
[[ -z $(sort "$work/runtime" "$work/dev" | uniq -d | grep -v '/$') ]] || fail "a file is in both packages"
onnxruntime=$(grep -c '/rdeic/libonnxruntime\.so\.1$' "$work/runtime" || true)
((onnxruntime)) || grep -q onnxruntime "$work/depends" || fail "ONNX Runtime is neither in the package nor in Depends"
if ((onnxruntime)); then
    grep -qx '\./usr/share/doc/rdeic/onnxruntime/LICENSE' "$work/runtime" || fail "ONNX Runtime is there without its licence"
fi

echo "== archives hold the same"
for kind in runtime dev; do
    tar tf "$work"/rdeic-"$version"-*-"$kind".tar.gz | grep -v '/$' | sed 's#^\./##' | sort >"$work/$kind.tar"
    grep -v '/$' "$work/$kind" | sed 's#^\./usr/##' | sort | diff - "$work/$kind.tar"
done

echo "== what is unpacked decodes, wherever it lies"
dpkg-deb -x "$runtime" "$work/root"
dpkg-deb -x "$dev" "$work/root"
! readelf -d "$work/root/usr/bin/rdeic" "$(find "$work/root" -name librdeic.so)" | grep -E 'R(UN)?PATH' | grep -v '\[\$ORIGIN[^:]*\(:\$ORIGIN[^:]*\)*\]$' ||
    fail "a folder of this machine is in what is searched for libraries"
unset LD_LIBRARY_PATH RDEIC_RT_BUNDLES
export XDG_CACHE_HOME=$work
rdeic=$work/root/usr/bin/rdeic
[[ $("$rdeic" --version) == "rdeic $version" ]]
"$rdeic" decode "$golden/rocket_r0.rdc" -b "$golden/bundle" -o "$work/image.png"
[[ -s $work/image.png ]]
"$rdeic" info "$work/root/usr/share/rdeic/engines/tiny-2"
if ((onnxruntime)); then
    ldd "$rdeic" | grep "libonnxruntime.so.1 => $work/root" || fail "ONNX Runtime is not that of the package"
fi
