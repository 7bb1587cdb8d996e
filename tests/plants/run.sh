#!/usr/bin/env bash
# Plants each bug of this directory in a copy of the source, and shows which test goes red.
#
#   tests/plants/run.sh                all of them
#   tests/plants/run.sh no-flush       these
#   tests/plants/run.sh --some 3       so many, chosen by the commit, of those that a quick test finds
#   tests/plants/run.sh --record …     as above, and writes what came of it to results.tsv and RESULTS.md
#   tests/plants/run.sh --table        none: writes RESULTS.md from results.tsv
#   tests/plants/run.sh --check        none: only looks whether all of them apply
#
# A plant is a patch whose head says what it breaks (What:), whose bug it was (Seen:), which fault it fails to
# survive (Fault:), and which tests are asked, in this order, until one is red (Test:, arguments of `cargo
# test`). A plant that survives all of them, does not apply, or does not build is an error. Needs git and
# cargo. The copy is the last commit. OARLOCK_PLANTS_TARGET names a target directory that is kept.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root="$(git rev-parse --show-toplevel)"
results="$root/tests/plants/results.tsv"

# The values of a plant's head, one on a line.
head_of() { sed -n "/^$/q; s/^$2: //p" "$1"; }

# The plants of this row, each with the test that went red.
cells() {
    local patch plant found=""
    for patch in "$root"/tests/plants/*.patch; do
        if "$1" "$patch" "$2"; then
            plant="$(basename "$patch" .patch)"
            found+="${found:+, }\`$plant\` ($(awk -F '\t' -v plant="$plant" \
                '$1 == plant { print $3; n = 1 } END { if (!n) print "not run" }' "$results"))"
        fi
    done
    echo "${found:-none}"
}
is_of_bug() {
    head_of "$1" Seen | sed -n 's/.*(known bugs\{0,1\} \(.*\))/\1/p' | tr -c '0-9\n' '\n' | grep -qx "$2"
}
is_of_fault() { head_of "$1" Fault | grep -qxF "$2"; }
is_of_neither() { ! head_of "$1" Seen | grep -q 'known bug' && ! head_of "$1" Fault | grep -q .; }

# Everything that went wrong elsewhere or must be survived, with its plants.
table() {
    local number where what fault promise patch plant
    echo "# Plants, and the tests that found them"
    echo
    echo "Written by \`tests/plants/run.sh\`; \`results.tsv\` has the commit of each run. In parentheses is the"
    echo "test that went red. \`README.md\` names the rows that concern nothing Oarlock has."
    printf '\n## Known bugs of others\n\n| N | What happened | Plants |\n|---|---|---|\n'
    while IFS='|' read -r _ number where what _; do
        number="${number// /}"
        echo "| $number |$what| $(cells is_of_bug "$number") |"
    done < <(grep -E '^\| [0-9]+ \|' "$root/tests/known_bugs.md")
    printf '\n## Faults to survive\n\n| Fault | Promise | Plants |\n|---|---|---|\n'
    while IFS='|' read -r _ fault promise _; do
        fault="${fault# }"
        echo "| $fault|$promise| $(cells is_of_fault "${fault% }") |"
    done < <(sed -n '/^|---/,/^$/p' "$root/tests/known_faults.md" | grep '^| ')
    printf '\n## Other cuts\n\n| What is broken | Plant |\n|---|---|\n'
    for patch in "$root"/tests/plants/*.patch; do
        if is_of_neither "$patch"; then
            plant="$(basename "$patch" .patch)"
            is_this() { [[ "$1" == "$2" ]]; }
            echo "| $(head_of "$patch" What) | $(cells is_this "$patch") |"
        fi
    done
}

record=""
if [[ "${1:-}" == --record ]]; then
    record=yes
    shift
fi
commit="$(git rev-parse --short HEAD)"
plants=("$@")
case "${1:-}" in
    --check)
        cd "$root"
        for patch in tests/plants/*.patch; do
            git apply --recount --check "$patch" || { echo "does not apply: $patch"; exit 1; }
            while IFS= read -r fault; do
                grep -qF "| $fault |" tests/known_faults.md || { echo "$patch: no fault '$fault'"; exit 1; }
            done < <(head_of "$patch" Fault)
        done
        exit 0
        ;;
    --table)
        table >"$root/tests/plants/RESULTS.md"
        exit 0
        ;;
    --some)
        # Quick are those whose first test was red within ten seconds when it was last recorded.
        mapfile -t plants < <(
            while IFS=$'\t' read -r plant test _ seconds _; do
                patch="$root/tests/plants/$plant.patch"
                if [[ -f "$patch" && "$(head_of "$patch" Test | head -n 1)" == "$test" ]] && ((seconds <= 10)); then
                    echo "$(cksum <<<"$commit $plant" | cut -d ' ' -f 1) $plant"
                fi
            done <"$results" | sort -n | head -n "$2" | cut -d ' ' -f 2
        )
        ;;
    "")
        for patch in "$root"/tests/plants/*.patch; do
            plants+=("$(basename "$patch" .patch)")
        done
        ;;
esac
[[ ${#plants[@]} -gt 0 ]] || { echo "no plants"; exit 1; }

scratch="$(mktemp -d)"
export CARGO_TARGET_DIR="${OARLOCK_PLANTS_TARGET:-$scratch/target}"
source="$CARGO_TARGET_DIR/plants-source"
mkdir -p "$CARGO_TARGET_DIR"
drop_copy() {
    git -C "$root" worktree remove --force "$source" >/dev/null 2>&1 || rm -rf "$source"
}
trap 'drop_copy; rm -rf "$scratch"' EXIT
# What a run that was killed left behind.
drop_copy
git -C "$root" worktree prune
git -C "$root" worktree add --quiet --detach "$source" HEAD
cd "$source"
here="$source/tests/plants"

export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=1 RUST_BACKTRACE=0
# Quick to build, and quick enough to run many worlds.
export CARGO_PROFILE_DEV_OPT_LEVEL="${CARGO_PROFILE_DEV_OPT_LEVEL:-1}"
export CARGO_PROFILE_DEV_DEBUG="${CARGO_PROFILE_DEV_DEBUG:-0}"
export OARLOCK_SEEDS="${OARLOCK_SEEDS:-400}"
# So long may one test take; whatever hangs is red as well.
limit="${OARLOCK_PLANTS_LIMIT:-600}"

log="$scratch/log"
bad=0
recorded=""
# What is red without a plant says nothing about one.
while IFS= read -r test; do
    read -ra args <<<"$test"
    cargo test --locked "${args[@]:0:2}" --no-run >"$log" 2>&1 || { tail -n 5 "$log"; exit 1; }
    if ! timeout "$limit" cargo test --locked "${args[@]}" >"$log" 2>&1; then
        echo "red without a plant: $test"
        grep -m 1 -A 1 'panicked at' "$log" || tail -n 5 "$log"
        exit 1
    fi
    # A filter that no test passes is never red.
    if ! grep -qE '^test .* ok$' "$log"; then
        echo "no such test: $test"
        exit 1
    fi
done < <(for plant in "${plants[@]}"; do head_of "$here/$plant.patch" Test; done | sort -u)
for plant in "${plants[@]}"; do
    patch="$here/$plant.patch"
    if ! git apply --recount "$patch" 2>"$log"; then
        echo "DOES NOT APPLY  $plant: $(head -n 1 "$log")"
        bad=$((bad + 1))
        continue
    fi
    red="" which="SURVIVED" took=0
    while IFS= read -r test; do
        read -ra args <<<"$test"
        # Building takes as long as it takes.
        if ! cargo test --locked "${args[@]:0:2}" --no-run >"$log" 2>&1; then
            red="DOES NOT BUILD"
            break
        fi
        began=$SECONDS
        if ! timeout "$limit" cargo test --locked "${args[@]}" >"$log" 2>&1; then
            red="$test" took=$((SECONDS - began))
            break
        fi
    done < <(head_of "$patch" Test)
    case "$red" in
        "")
            echo "SURVIVED        $plant"
            bad=$((bad + 1))
            ;;
        "DOES NOT BUILD")
            echo "DOES NOT BUILD  $plant: $(grep -m 1 '^error' "$log")"
            bad=$((bad + 1))
            which="$red"
            ;;
        *)
            which="$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | head -n 1)"
            which="${which:-$red}"
            why="$(grep -m 1 -A 1 'panicked at' "$log" | tail -n 1 | cut -c 1-110)"
            echo "red             $plant: $which, in $took s ($why)"
            ;;
    esac
    recorded+="$(printf '%s\t%s\t%s\t%s\t%s' "$plant" "${red:--}" "$which" "$took" "$commit")"$'\n'
    git checkout --quiet -- .
done
if [[ -n "$record" ]]; then
    touch "$results"
    while IFS=$'\t' read -r plant rest; do
        if [[ -f "$root/tests/plants/$plant.patch" ]] && ! grep -q "^$plant"$'\t' <<<"$recorded"; then
            recorded+="$plant"$'\t'"$rest"$'\n'
        fi
    done <"$results"
    LC_ALL=C sort <<<"${recorded%$'\n'}" >"$scratch/results"
    cp "$scratch/results" "$results"
    table >"$root/tests/plants/RESULTS.md"
fi
echo "${#plants[@]} plants, $bad of them bad"
[[ $bad -eq 0 ]]
