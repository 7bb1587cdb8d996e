#!/usr/bin/env bash
# Three kv servers on this machine, and beside them, in the same run, what one might take instead.
#
#   benches/redis.sh            every figure; takes some minutes
#   ROUNDS=1 SECONDS_EACH=1 ETCD=no benches/redis.sh
#
# ROUNDS (3)         each cell is the median of so many, taken in turn
# SECONDS_EACH (3)   how long a cell is measured, about
# DATA (a new directory below the current one's target)   where everything is stored: on the disk that is to
#                    be measured
# ETCD (yes)         whether etcd is measured too, which takes a minute by itself each round
#
# Needs redis-tools; measures Redis with redis-server, and etcd with etcd-server and etcd-client, where
# Debian's packages of these names are installed. CPU time is that of all server processes together; the
# load generator runs on the same processors, and is not in it.
#
# etcd comes with one load generator, `etcdctl check perf`, which writes 1 KiB with 1000 clients, at most
# 15,000 times a second. The last lines of the table put the same to all.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROUNDS="${ROUNDS:-3}"
SECONDS_EACH="${SECONDS_EACH:-3}"
ETCD="${ETCD:-yes}"
FIRST_PORT="${FIRST_PORT:-17100}"
TICKS="$(getconf CLK_TCK)"

command -v redis-benchmark >/dev/null || { echo "redis-benchmark is not installed (redis-tools)"; exit 1; }
cargo build --locked --release --example kv
KV=target/release/examples/kv
mkdir -p target
DATA="$(mktemp -d "${DATA:-target}/redis-bench.XXXXXX")"
RESULTS="$DATA/results"
: >"$RESULTS"
PIDS=()

stop() {
    local pid
    for pid in "${PIDS[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    for pid in "${PIDS[@]}"; do wait "$pid" 2>/dev/null || true; done
    PIDS=()
}
trap 'stop; rm -rf "$DATA"' EXIT

say() { echo "$*" >&2; }

# Waits until a command succeeds.
await() {
    local _
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    say "never came to be: $*"
    return 1
}

# CPU time of the servers so far, in microseconds, the kernel's part for them included.
cpu() {
    local pid total=0 fields
    for pid in "${PIDS[@]}"; do
        # The name may hold anything, so what follows its bracket is counted.
        fields="$(sed 's/^.*) //' "/proc/$pid/stat")"
        total=$((total + $(awk '{ print $12 + $13 }' <<<"$fields")))
    done
    echo $((total * 1000000 / TICKS))
}

# A server's answer to a command.
ask() {
    local port="$1"
    shift
    redis-cli -p "$port" "$@"
}

# Runs redis-benchmark once. Prints operations a second, and latencies at 50 and 99 %.
benchmark() {
    local port="$1" requests="$2"
    shift 2
    redis-benchmark -h 127.0.0.1 -p "$port" -n "$requests" -r 100000 --csv "$@" 2>/dev/null |
        tail -n 1 | tr -d '"' | awk -F, '{ print $2, $5, $7 }'
}

# cell NAME WHAT PORT ARGS...: measures for about SECONDS_EACH, and notes the result.
cell() {
    local name="$1" what="$2" port="$3" rate requests before after result
    shift 3
    read -r rate _ <<<"$(benchmark "$port" 20000 "$@")"
    requests="$(awk -v r="$rate" -v s="$SECONDS_EACH" 'BEGIN { n = int(r * s); print n < 2000 ? 2000 : n }')"
    before="$(cpu)"
    result="$(benchmark "$port" "$requests" "$@")"
    after="$(cpu)"
    note "$name" "$what" "$result" "$(awk -v c=$((after - before)) -v n="$requests" 'BEGIN { print c / n }')"
}

note() {
    say "  $1, $2: $3 (operations a second, ms at 50 and 99 %), $4 us of CPU each"
    echo "$1|$2|$3 $4" >>"$RESULTS"
}

cells() {
    local name="$1" port="$2"
    cell "$name" "SET -P 1 -c 50" "$port" -t set -P 1 -c 50
    cell "$name" "SET -P 64 -c 50" "$port" -t set -P 64 -c 50
    cell "$name" "GET -P 1 -c 50" "$port" -t get -P 1 -c 50
    cell "$name" "GET -P 64 -c 50" "$port" -t get -P 64 -c 50
}

wide() { cell "$1" "SET 1 KiB -c 1000" "$2" -t set -P 1 -c 1000 -d 1024; }

start_kv() {
    local id members=() dir
    dir="$(mktemp -d "$DATA/kv.XXXXXX")"
    for id in 1 2 3; do members+=("$id=127.0.0.1:$((FIRST_PORT + id))"); done
    for id in 1 2 3; do
        local storage=(--memory)
        [[ "$1" == disk ]] && storage=(--data "$dir/$id")
        "$KV" --id "$id" --members "$(IFS=,; echo "${members[*]}")" --max-clients 2000 \
            --redis "127.0.0.1:$((FIRST_PORT + 10 + id))" "${storage[@]}" >/dev/null &
        PIDS+=($!)
    done
    for id in 1 2 3; do await ask $((FIRST_PORT + 10 + id)) -e get nothing; done
    LEADER=$((FIRST_PORT + 10 + $(ask $((FIRST_PORT + 11)) raft leader)))
    FOLLOWER=$((FIRST_PORT + 10 + ($(ask $((FIRST_PORT + 11)) raft leader) % 3) + 1))
}

measure_kv() {
    say "three kv servers, on disk"
    start_kv disk
    cells "kv on disk, at the leader" "$LEADER"
    cells "kv on disk, at a follower" "$FOLLOWER"
    wide "kv on disk, at the leader" "$LEADER"
    stop
    say "three kv servers, in memory"
    start_kv memory
    cells "kv in memory, at the leader" "$LEADER"
    stop
}

measure_redis() {
    local port=$((FIRST_PORT + 20)) dir
    command -v redis-server >/dev/null || { say "SKIPPED: redis-server is not installed"; return 0; }
    say "Redis alone, appendfsync always"
    dir="$(mktemp -d "$DATA/redis.XXXXXX")"
    redis-server --port "$port" --bind 127.0.0.1 --dir "$dir" --save '' --appendonly yes \
        --appendfsync always >/dev/null &
    PIDS+=($!)
    await ask "$port" -e ping
    cells "Redis alone, appendfsync always" "$port"
    wide "Redis alone, appendfsync always" "$port"
    stop
}

measure_etcd() {
    local id cluster=() clients=() dir said rate before after
    [[ "$ETCD" == yes ]] || return 0
    if ! command -v etcd >/dev/null || ! command -v etcdctl >/dev/null; then
        say "SKIPPED: etcd and etcdctl are not installed"
        return 0
    fi
    say "three etcd servers, $(etcd --version | head -n 1)"
    dir="$(mktemp -d "$DATA/etcd.XXXXXX")"
    for id in 1 2 3; do
        cluster+=("n$id=http://127.0.0.1:$((FIRST_PORT + 30 + id))")
        clients+=("http://127.0.0.1:$((FIRST_PORT + 40 + id))")
    done
    for id in 1 2 3; do
        etcd --name "n$id" --data-dir "$dir/$id" --initial-cluster "$(IFS=,; echo "${cluster[*]}")" \
            --listen-peer-urls "http://127.0.0.1:$((FIRST_PORT + 30 + id))" \
            --initial-advertise-peer-urls "http://127.0.0.1:$((FIRST_PORT + 30 + id))" \
            --listen-client-urls "${clients[id - 1]}" --advertise-client-urls "${clients[id - 1]}" \
            >"$dir/$id.log" 2>&1 &
        PIDS+=($!)
    done
    export ETCDCTL_API=3 ETCDCTL_ENDPOINTS
    ETCDCTL_ENDPOINTS="$(IFS=,; echo "${clients[*]}")"
    await etcdctl put a b
    before="$(cpu)"
    # It calls it a failure if less comes out than it wanted to put in.
    said="$(etcdctl check perf --load=xl 2>&1 || true)"
    after="$(cpu)"
    rate="$(grep -o '[0-9]* writes/s' <<<"$said" | head -n 1 | cut -d ' ' -f 1)"
    note "etcd on disk" "SET 1 KiB -c 1000" "$rate - -" \
        "$(awk -v c=$((after - before)) -v n=$((rate * 60)) 'BEGIN { print c / n }')"
    stop
}

for round in $(seq "$ROUNDS"); do
    say "round $round of $ROUNDS"
    measure_kv
    measure_redis
    measure_etcd
done

echo
echo "$(nproc) processors, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)," \
    "$(stat -f -c %T "$DATA"), commit $(git rev-parse --short HEAD)"
echo
echo "| server | load | operations a second | spread | ms at 50 % | ms at 99 % | us of CPU each |"
echo "|---|---|---|---|---|---|---|"
cut -d '|' -f 1,2 "$RESULTS" | awk '!seen[$0]++' | while IFS='|' read -r name what; do
    median() {
        grep -F "$name|$what|" "$RESULTS" | cut -d '|' -f 3 | cut -d ' ' -f "$1" | sort -g |
            awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
    }
    spread="$(grep -F "$name|$what|" "$RESULTS" | cut -d '|' -f 3 | cut -d ' ' -f 1 | sort -g |
        awk '{ v[NR] = $1 } END { printf "%.0f %%", 100 * (v[NR] - v[1]) / v[int((NR + 1) / 2)] }')"
    printf '| %s | %s | %.0f | %s | %s | %s | %.1f |\n' \
        "$name" "$what" "$(median 1)" "$spread" "$(median 2)" "$(median 3)" "$(median 4)"
done
