#!/usr/bin/env bash
# The log against storage faults, at length: a million images of crashes, every byte flipped, every call
# failing with every error, many damages at once.
#
#   tests/wal_campaign.sh [IMAGES [SEED]]
#
# Prints how far each workload has come; SEED goes on where an earlier run has ended, or repeats one. Needs
# cargo alone. A million images take some minutes of one processor. (The images are shared out evenly, and a
# first start has only some hundred of them.)

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OARLOCK_TEST_CRASH_IMAGES="${1:-1100000}" OARLOCK_TEST_CRASH_SEED="${2:-0}"
export OARLOCK_TEST_FLIPS=all OARLOCK_TEST_ERRORS=all OARLOCK_TEST_DAMAGES=100000
for test in wal_crash wal_damage wal_calls; do
    cargo test --locked --release --test "$test" -- --nocapture
done
