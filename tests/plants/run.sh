#!/usr/bin/env bash
# Plants each bug of this directory in a copy of the source, and shows which test goes red.
#
#   tests/plants/run.sh            all of them
#   tests/plants/run.sh no-flush   these
#   tests/plants/run.sh --check    none: only looks whether all of them apply
#
# A plant is a patch whose head says what it breaks (What:), whose bug it was (Seen:), and which tests are
# asked, in this order, until one is red (Test:, arguments of `cargo test`). A plant that survives all of
# them, does not apply, or does not build is an error. Needs git and cargo. The copy is the last commit, and
# shares no target directory with the work tree.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ "${1:-}" == --check ]]; then
    cd "$(git rev-parse --show-toplevel)"
    for patch in tests/plants/*.patch; do
        git apply --recount --check "$patch" || { echo "does not apply: $patch"; exit 1; }
    done
    exit 0
fi
root="$(git rev-parse --show-toplevel)"
copy="$(mktemp -d)"
trap 'git -C "$root" worktree remove --force "$copy/source" >/dev/null 2>&1; rm -rf "$copy"' EXIT
git -C "$root" worktree add --quiet --detach "$copy/source" HEAD
cd "$copy/source"
here="$copy/source/tests/plants"

export CARGO_TARGET_DIR="${OARLOCK_PLANTS_TARGET:-$copy/target}"
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=1 RUST_BACKTRACE=0
# Quick to build, and quick enough to run many worlds.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0
export OARLOCK_SEEDS="${OARLOCK_SEEDS:-400}"
# So long may one test take; whatever hangs is red as well.
limit="${OARLOCK_PLANTS_LIMIT:-600}"

plants=("$@")
if [[ ${#plants[@]} -eq 0 ]]; then
    for patch in "$here"/*.patch; do
        plants+=("$(basename "$patch" .patch)")
    done
fi

log="$copy/log"
bad=0
# What is red without a plant says nothing about one.
while IFS= read -r test; do
    read -ra args <<<"$test"
    if ! timeout "$limit" cargo test --locked "${args[@]}" >"$log" 2>&1; then
        echo "red without a plant: $test"
        grep -m 1 -A 1 'panicked at' "$log" || tail -n 5 "$log"
        exit 1
    fi
done < <(for plant in "${plants[@]}"; do sed -n 's/^Test: //p' "$here/$plant.patch"; done | sort -u)
for plant in "${plants[@]}"; do
    patch="$here/$plant.patch"
    if ! git apply --recount "$patch" 2>"$log"; then
        echo "DOES NOT APPLY  $plant: $(head -n 1 "$log")"
        bad=$((bad + 1))
        continue
    fi
    red=""
    while IFS= read -r test; do
        read -ra args <<<"$test"
        if ! timeout "$limit" cargo test --locked "${args[@]:0:2}" --no-run >"$log" 2>&1; then
            red="DOES NOT BUILD"
            break
        fi
        if ! timeout "$limit" cargo test --locked "${args[@]}" >"$log" 2>&1; then
            red="$test"
            break
        fi
    done < <(sed -n 's/^Test: //p' "$patch")
    case "$red" in
        "")
            echo "SURVIVED        $plant"
            bad=$((bad + 1))
            ;;
        "DOES NOT BUILD")
            echo "DOES NOT BUILD  $plant: $(grep -m 1 '^error' "$log")"
            bad=$((bad + 1))
            ;;
        *)
            which="$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | head -n 1)"
            why="$(grep -m 1 -A 1 'panicked at' "$log" | tail -n 1 | cut -c 1-110)"
            echo "red             $plant: ${which:-$red} ($why)"
            ;;
    esac
    git checkout --quiet -- .
done
echo "${#plants[@]} plants, $bad of them bad"
[[ $bad -eq 0 ]]
