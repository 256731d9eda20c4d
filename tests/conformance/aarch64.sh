#!/usr/bin/env bash
# Makes what promises.py runs on an emulated aarch64: librdeic, cross-compiled, and CPython with the dependencies of
# rdeic_rt, on Debian and its relatives. Runs the tests of librdeic's integer arithmetic in qemu, the golden files among
# them. Nothing is installed; all of it lies in FOLDER, 400 MB:
#
#   tests/conformance/aarch64.sh FOLDER
#
#   FOLDER/root       Debian's packages for arm64, unpacked
#   FOLDER/site       Python packages: those of pyproject.toml that have wheels for aarch64
#   FOLDER/build      librdeic
#
# Needs Debian's g++-aarch64-linux-gnu and qemu-user, and what runtime/cpp/setup_dependencies.sh installs.
set -euo pipefail

tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
root=$folder/root site=$folder/site
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for program in aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v "$program" > /dev/null || {
        echo "$program is missing: apt-get install g++-aarch64-linux-gnu qemu-user" >&2
        exit 1
    }
done

# Packages of the Debian that is running, as the compiler's own libraries are. An apt of its own, which knows of no
# installed package, finds what they depend on.
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
touch "$work/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" \
    > "$work/sources.list"
apt=(-qq -y -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::Etc::SourceList=$work/sources.list"
    -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User= --no-install-recommends)
apt-get "${apt[@]}" update
apt-get "${apt[@]}" --download-only install \
    python3 libstdc++6 zlib1g-dev libssl-dev libpng-dev libminizip-dev libgtest-dev nlohmann-json3-dev
rm -rf "$root" "$site"
mkdir -p "$root"
for package in "$work"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
[[ -e $root/lib ]] || ln -s usr/lib "$root/lib"
# qemu shows programs this machine's /proc/cpuinfo, which ONNX Runtime does not survive; what lies in the root wins.
mkdir "$root/proc"
cat > "$root/proc/cpuinfo" <<'CPUINFO'
processor	: 0
BogoMIPS	: 100.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

CPUINFO

# Wheels. pip looks at this machine when it reads a requirement's marker, so that names are given to it without.
python=$(basename "$(readlink "$root/usr/bin/python3")")
mapfile -t requirements < <("${PYTHON:-python3}" - "$tree/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    requirements = tomllib.load(file)["project"]["dependencies"]
print(*(r for r in requirements if "platform_machine" not in r), sep="\n")
PYTHON
)
platforms=()
for glibc in 17 26 27 28 34; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
"${PYTHON:-python3}" -m pip install -q --target "$site" --only-binary :all: --implementation cp \
    --python-version "${python#python}" "${platforms[@]}" --platform manylinux2014_aarch64 "${requirements[@]}"

PYTHONPATH=$site PYTHON=${PYTHON:-python3} "$tree/runtime/cpp/setup_dependencies.sh" "$folder/onnxruntime"
export PKG_CONFIG_LIBDIR=$root/usr/lib/aarch64-linux-gnu/pkgconfig PKG_CONFIG_SYSROOT_DIR=$root
cmake -S "$tree" -B "$folder/build" -G Ninja -DONNXRUNTIME_ROOT="$folder/onnxruntime" \
    -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_SYSROOT="$root" \
    -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER -DCMAKE_CROSSCOMPILING_EMULATOR="$(command -v qemu-aarch64);-L;$root"
cmake --build "$folder/build" -j2 --target parity coder_test entropy_test layers_test matmul_test noise_test
ctest --test-dir "$folder/build" -j2 --output-on-failure -R '^(Coder|Entropy|Layers|Matmul|Noise)\.'
