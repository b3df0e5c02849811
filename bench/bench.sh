#!/usr/bin/env bash
# Measures private clusters in short forms: start-up, messages, idle connections,
# limits and a storm over each transport, pairs across cells, no TLS, and the
# same rate over more cells; and the least a durable chat server can do, to hold
# the rest against. Leaves a folder with a report of each.
#
#   BENCH_OUT         folder, default ./waggle-bench-TIME
#   BENCH_TRANSPORTS  default "tcp quic"
#   BENCH_CLUSTER     further flags of `waggle dev`, such as "--replicas 3 --procs"
set -uo pipefail
cd "$(dirname "$0")/.."
out=${BENCH_OUT:-waggle-bench-$(date -u +%Y%m%d-%H%M%S)}
transports=${BENCH_TRANSPORTS:-tcp quic}
# Each measurement ends by itself well before; this is for a cluster that hangs.
longest=240s
ulimit -n "$(ulimit -Hn)"

work=$(mktemp -d "${TMPDIR:-/tmp}/waggle-bench.XXXXXX")
server='' child='' plain='' failed=()

cleanup() {
  trap '' INT TERM HUP
  trap - EXIT
  # First the measurement: it waits for answers of the server.
  for pid in $child $server; do
    kill -TERM "$pid" 2>/dev/null
    for _ in $(seq 150); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.2
    done
    pkill -KILL -P "$pid" 2>/dev/null
    kill -KILL "$pid" 2>/dev/null
  done
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# free_ports prints so many ports that nothing listens on.
free_ports() {
  local port found=0
  while [ "$found" -lt "$1" ]; do
    port=$((20000 + RANDOM % 10000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      found=$((found + 1))
    fi
  done
}

start() {
  local ports
  mapfile -t ports < <(free_ports 5)
  printf 'cell: {messages_per_second: -1}\nedge: {exempt_loopback: true}\n' >"$work/bench.yaml"
  # shellcheck disable=SC2086 # several flags
  bin/waggle dev --config "$work/bench.yaml" --data "$work/data" --listen "127.0.0.1:${ports[0]}" --admin "127.0.0.1:${ports[1]}" \
    --plaintext "127.0.0.1:${ports[2]}" --rtsp "127.0.0.1:${ports[3]}" --rtmp "127.0.0.1:${ports[4]}" \
    --no-demo --ready-file "$work/ready" ${BENCH_CLUSTER:-} >"$out/cluster.log" 2>&1 &
  server=$!
  plain=127.0.0.1:${ports[2]}
  export WAGGLE_SERVER=127.0.0.1:${ports[0]} WAGGLE_ADMIN=127.0.0.1:${ports[1]} WAGGLE_CA=$work/data/ca.pem
  for _ in $(seq 300); do
    [ -e "$work/ready" ] && return 0
    kill -0 "$server" 2>/dev/null || break
    sleep 0.2
  done
  echo "bench: the cluster did not start; the end of $out/cluster.log:" >&2
  tail -5 "$out/cluster.log" >&2
  exit 1
}

# measure NAME VERB FLAGS… runs one measurement into a folder of that name.
measure() {
  local name=$1
  shift
  printf '== %d:%02d %s: waggle-bench %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$name" "$*"
  timeout --foreground --signal=INT --kill-after=30s "$longest" bin/waggle-bench "$@" --out "$out/$name" >"$work/said" 2>"$work/progress" &
  child=$!
  if wait "$child"; then
    echo "   done"
  else
    failed+=("$name")
    tail -1 "$work/progress"
  fi
  child=''
}

# index lists the reports, with what limits and storm found.
index() {
  echo "# A run of \`make bench\`"
  echo
  echo "- time: $(date -u +%Y-%m-%dT%H:%M:%SZ)"
  echo "- cluster: \`waggle dev${BENCH_CLUSTER:+ $BENCH_CLUSTER}\`, limits per user and per address lifted, servers and generator on one machine"
  echo
  local report
  for report in "$out"/*/report.md; do
    [ -e "$report" ] || continue
    local name
    name=$(basename "$(dirname "$report")")
    echo "- [$name]($name/report.md)$(sed -n 's/^\(\*\*.*\)/: \1/p' "$report" | head -1)"
  done
  [ ${#failed[@]} -eq 0 ] || printf '\nNot good, or not measured: %s\n' "${failed[*]}"
}

mkdir -p "$out"
# These start clusters of their own.
measure startup startup --repeat 3
measure scale scale --duration 8s
# No Waggle at all: what the rest is held against.
measure ceiling-1 ceiling --window 500 --duration 8s
measure ceiling-3 ceiling --copies 3 --window 500 --duration 8s
start
for t in $transports; do
  measure "run-window-500-$t" run --transport "$t" --pairs 500 --window 500 --duration 15s
  for rate in 1000 3000 10000; do
    measure "run-rate-$rate-$t" run --transport "$t" --pairs 500 --rate "$rate" --duration 10s
  done
  measure "idle-$t" idle --transport "$t" --connections 5000 --procs 2 --hold 20s
  measure "limits-$t" limits --transport "$t" --connections-max 2000 --procs 4 --hold 5s --step 3s
  measure "storm-$t" storm --transport "$t" --connections 2000
done
measure cross-cell-rate-1000-tcp run --pairs 500 --rate 1000 --duration 10s --placement cross-cell
measure run-rate-1000-plain run --transport plain --server "$plain" --pairs 500 --rate 1000 --duration 10s
measure run-window-500-plain run --transport plain --server "$plain" --pairs 500 --window 500 --duration 10s
measure idle-plain idle --transport plain --server "$plain" --connections 5000 --procs 2 --hold 15s
index >"$out/README.md"
echo
cat "$out/README.md"
echo
echo "results in $out"
[ ${#failed[@]} -eq 0 ]
