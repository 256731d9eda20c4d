#!/usr/bin/env bash
# Gets what librdeic is built from, on Debian and its relatives: the packages below, and ONNX Runtime where no package has
# it. Of that, the headers come from Debian's libonnxruntime-dev, unpacked and not installed, and the library from
# Python's wheel; the two need not be of one version, as the API is stable.
#
#   runtime/cpp/setup_dependencies.sh [FOLDER]     FOLDER: where ONNX Runtime goes; CMake finds the default by itself
#
# PYTHON=... names the Python whose onnxruntime, or onnxruntime-gpu, is taken. Without one, pip downloads onnxruntime.
# Packages are installed as root only; otherwise the command is shown.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=${1:-$here/.dependencies/onnxruntime}
packages=(cmake g++ ninja-build pkg-config zlib1g-dev libssl-dev libpng-dev libminizip-dev nlohmann-json3-dev libgtest-dev dpkg-dev file)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if ((${#missing[@]})); then
    if ((EUID)); then
        echo "Missing packages; install them, and run this again: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
fi

# Headers. An apt of its own reads the list of trixie, so that nothing of the system is changed.
mkdir -p "$prefix/include" "$prefix/lib"
if [[ ! -f $prefix/include/onnxruntime_c_api.h ]]; then
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        > "$work/apt/sources.list"
    apt=(-qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/apt/lists"
        -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=)
    apt-get "${apt[@]}" update
    (cd "$work" && apt-get "${apt[@]}" download libonnxruntime-dev)
    dpkg-deb -x "$work"/libonnxruntime-dev_*.deb "$work/headers"
    find "$work/headers/usr/include" -name 'onnxruntime*.h' -exec cp -t "$prefix/include" {} +
fi

# The library: of the installed wheel, or of a downloaded one.
find_wheel='import importlib.util as u; s = u.find_spec("onnxruntime"); print(s.submodule_search_locations[0] if s else "")'
python=${PYTHON:-python3}
package=$("$python" -c "$find_wheel")
if [[ -z $package ]]; then
    "$python" -m pip download -q --no-deps --only-binary :all: -d "$work" onnxruntime
    "$python" -m zipfile -e "$work"/onnxruntime-*.whl "$work/wheel"
    package=$work/wheel/onnxruntime
fi
rm -f "$prefix"/lib/libonnxruntime*
cp "$package"/capi/libonnxruntime*.so* "$prefix/lib"
# Whoever passes the library on passes these on too.
cp "$package/LICENSE" "$package/ThirdPartyNotices.txt" "$prefix"
library=$(find "$prefix/lib" -name 'libonnxruntime.so.*' -print -quit)
ln -sf "$(basename "$library")" "$prefix/lib/libonnxruntime.so.1"
ln -sf libonnxruntime.so.1 "$prefix/lib/libonnxruntime.so"
echo "ONNX Runtime: $library, headers of API version $(awk '/define ORT_API_VERSION/ {print $3}' "$prefix/include/onnxruntime_c_api.h")"
