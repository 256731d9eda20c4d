#!/usr/bin/env bash
# Runs the command and the example on good and bad input.
#
#   tool_test.sh RDEIC DECODE_MEMORY SOURCE    the two programs, and the folder of the repository
set -euo pipefail

rdeic=$1 decode_memory=$2 source=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
golden=$source/tests/golden/v1
cd "$work"
cp "$golden/chelsea_r0.rdc" photo.rdc
mkdir bundles
ln -s "$golden/bundle" bundles/tiny-2
export RDEIC_RT_BUNDLES=$work/bundles XDG_CACHE_HOME=$work/cache

# Checks that a command fails with this exit code and one line on standard error that holds these words.
fails() {
    local code=$1 words=$2 status=0
    shift 2
    "$@" >out 2>err || status=$?
    [[ $status == "$code" ]] || { echo "exit code $status instead of $code: $*" >&2; cat err >&2; exit 1; }
    grep -q -- "$words" err || { echo "no '$words' in the message of: $*" >&2; cat err >&2; exit 1; }
    [[ $code == 2 || $(wc -l <err) == 1 ]] || { echo "more than one line: $*" >&2; cat err >&2; exit 1; }
}

# Decoding: a file beside the input, a named one, standard output; the example does the same.
"$rdeic" decode photo.rdc
[[ $(head -c 8 photo.png | od -An -tx1 | tr -d ' ') == 89504e470d0a1a0a ]]
"$rdeic" decode photo.rdc -o photo.ppm
"$rdeic" decode - < photo.rdc > stdout.png
cmp photo.png stdout.png
"$decode_memory" bundles/tiny-2 photo.rdc > example.ppm
cmp photo.ppm example.ppm
mv photo.png first.png
cp photo.rdc second.rdc
"$rdeic" decode photo.rdc second.rdc --bundle tiny-2 --threads 1
cmp first.png second.png

# Options change the image.
for options in '--seed 1' '--sharpness 0.5' --preview; do
    # shellcheck disable=SC2086
    "$rdeic" decode photo.rdc -o other.png $options
    cmp -s other.png first.png && { echo "$options changed nothing" >&2; exit 1; }
done

# Information.
"$rdeic" info photo.rdc | grep -q '^model_id: '
"$rdeic" info --json photo.rdc | python3 -c 'import json, sys; facts = json.load(sys.stdin); assert facts["bytes"] == int(sys.argv[1]), facts' "$(wc -c <photo.rdc)"
"$rdeic" info bundles/tiny-2 | grep -q '^rate 1: '
"$rdeic" --version | grep -q '^rdeic [0-9]'
"$rdeic" --help | grep -q -- --allow-partial

# Nothing of the libraries is left in the user's folders, or said.
mkdir home
(unset XDG_CACHE_HOME ORT_DISABLE_TELEMETRY; HOME=$work/home "$rdeic" decode photo.rdc -o home.png 2> err)
[[ -z $(find home -type f) && ! -s err ]] || { echo "left in HOME:" "$(find home -type f)" >&2; cat err >&2; exit 1; }
(unset HOME XDG_CACHE_HOME; "$rdeic" decode photo.rdc -o home.png)

# However little memory there is, it is an error of one line. Sanitizers take far more from the start.
for kilobytes in 200000 150000 100000 80000; do
    (ulimit -v 2000000; "$rdeic" --version > /dev/null 2>&1) || break
    status=0
    (ulimit -v $kilobytes; "$rdeic" decode photo.rdc -o little.png 2> err) || status=$?
    [[ $status == 0 || ( $status == 6 && $(wc -l <err) == 1 ) ]] || { echo "ulimit -v $kilobytes: $status" >&2; cat err >&2; exit 1; }
done

# Errors: the exit code tells the kind, the output is not touched, other inputs are done all the same.
head -c 150 photo.rdc > cut.rdc
printf 'GIF89a' > image.rdc
fails 4 'cut short' "$rdeic" decode cut.rdc
fails 4 'not an .rdc file' "$rdeic" decode image.rdc
fails 4 max_pixels "$rdeic" decode photo.rdc --max-pixels 100 -o x.png
fails 4 'standard input: signature' "$rdeic" decode - < /dev/null
fails 3 'No such file' "$rdeic" decode none.rdc
fails 3 'none/x.png: No such file' "$rdeic" decode photo.rdc -o none/x.png
fails 3 'second.png: exists' "$rdeic" decode second.rdc
fails 2 'exclude each other' "$rdeic" decode second.rdc --overwrite --no-overwrite
fails 2 'one of .png, .ppm' "$rdeic" decode photo.rdc -o x.jpg
fails 5 'no bundle' "$rdeic" decode photo.rdc -b other
fails 4 'cut short' "$rdeic" decode cut.rdc second.rdc --overwrite
fails 2 'Try: rdeic --help' "$rdeic"
fails 2 'takes a number' "$rdeic" decode photo.rdc --seed x
fails 2 '' "$rdeic" decode photo.rdc --no-such-option
fails 2 'steps' "$rdeic" decode photo.rdc --steps 77 -o x.png
fails 2 'one input' "$rdeic" decode photo.rdc second.rdc -o x.png
fails 4 'fetch it again' "$decode_memory" bundles/tiny-2 cut.rdc
fails 3 'No such file' "$decode_memory" bundles/tiny-2 none.rdc
[[ ! -e cut.png && ! -e image.png ]] || { echo "an image of a bad file" >&2; exit 1; }
[[ -z $(find . -name '.rdeic*') ]] || { echo "a temporary file was left" >&2; exit 1; }

# A file that is cut short is decoded when asked, and said to be.
"$rdeic" decode cut.rdc --allow-partial 2> err
grep -q 'slices are complete' err
