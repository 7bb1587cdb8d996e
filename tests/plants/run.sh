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

# Everything that went wrong elsewhere or must be survived, with its plants. One program, for there are more
# than a hundred heads.
table() {
    awk -F '\t' '
        function names(list, plants, count, at, text) {
            count = split(list, plants, " ")
            for (at = 1; at <= count; at++)
                text = text (at > 1 ? ", " : "") "`" plants[at] "` (" \
                    (plants[at] in red ? red[plants[at]] : "not run") ")"
            return count ? text : "none"
        }
        function trim(text) { gsub(/^ +| +$/, "", text); return text }
        FILENAME ~ /results.tsv$/ { red[$1] = $3; next }
        FNR == 1 && FILENAME ~ /patch$/ {
            plant = FILENAME; sub(/.*\//, "", plant); sub(/\.patch$/, "", plant)
            order[++plants] = plant; in_head = 1
        }
        FILENAME ~ /patch$/ {
            if ($0 == "") in_head = 0
            if (!in_head) next
            if (sub(/^What: /, "")) what[plant] = $0
            else if (sub(/^Fault: /, "")) { of_fault[$0] = of_fault[$0] plant " "; named[plant] = 1 }
            else if (/^Seen: / && sub(/.*\(known bugs? /, "")) {
                count = split($0, numbers, /[^0-9]+/); named[plant] = 1
                for (at = 1; at <= count; at++)
                    if (numbers[at] != "") of_bug[numbers[at]] = of_bug[numbers[at]] plant " "
            }
            next
        }
        FNR == 1 && FILENAME ~ /known_bugs/ {
            print "# Plants, and the tests that found them\n"
            print "Written by `tests/plants/run.sh`; `results.tsv` has the commit of each run. In parentheses is the test that went red. `README.md` names the rows that concern nothing Oarlock has.\n"
            print "## Known bugs of others\n\n| N | What happened | Plants |\n|---|---|---|"
        }
        FNR == 1 && FILENAME ~ /known_faults/ {
            print "\n## Faults to survive\n\n| Fault | Promise | Plants |\n|---|---|---|"
        }
        /^\| / && !/^\| (N|Fault) / {
            split($0, cells, "|")
            if (FILENAME ~ /bugs/)
                print "| " trim(cells[2]) " | " trim(cells[4]) " | " names(of_bug[trim(cells[2])]) " |"
            else
                print "| " trim(cells[2]) " | " trim(cells[3]) " | " names(of_fault[trim(cells[2])]) " |"
        }
        END {
            print "\n## Other cuts\n\n| What is broken | Plant |\n|---|---|"
            for (at = 1; at <= plants; at++)
                if (!(order[at] in named)) print "| " what[order[at]] " | " names(order[at]) " |"
        }
    ' "$results" "$root"/tests/plants/*.patch "$root/tests/known_bugs.md" "$root/tests/known_faults.md"
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
        bad=0
        for patch in tests/plants/*.patch; do
            git apply --recount --check "$patch" || bad=1
            while IFS= read -r fault; do
                grep -qF "| $fault |" tests/known_faults.md || { echo "$patch: no fault '$fault'"; bad=1; }
            done < <(head_of "$patch" Fault)
        done
        exit "$bad"
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
