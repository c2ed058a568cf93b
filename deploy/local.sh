#!/usr/bin/env bash
# Gateway, router and two expert workers as processes of this machine, on the demo model (or --model PATH).
#   deploy/local.sh [--once] [--workers N] [--model PATH] [--device cpu|cuda]
# Streams one answer, prints how to talk to it, and stays up until Ctrl-C; with --once it ends after the answer.
# A process that ends is started again: try kill -9 in the middle of an answer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=build/release/bin
model=model/demo
workers=
device=cpu
once=
prompt="Hello! Who are you?"

while [ $# -gt 0 ]; do
  case "$1" in
    --once) once=yes ;;
    --workers) workers=$2; shift ;;
    --model) model=$2; shift ;;
    --device) device=$2; shift ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

case "$device" in
  cpu | cuda) ;;
  *) echo "--device $device: say cpu, or cuda for the GPUs of this machine." >&2; exit 2 ;;
esac
# A GPU serves one worker.
if [ -z "$workers" ]; then
  workers=2
  gpus=(/proc/driver/nvidia/gpus/*)
  [ "$device" = cpu ] || [ ${#gpus[@]} -ge 2 ] || workers=1
fi

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
used=" "
# The wanted port, or the next one that nobody listens on; sets `port`.
free_port() {
  port=$1
  while taken "$port" || [[ "$used" == *" $port "* ]]; do port=$((port + 1)); done
  used+="$port "
}
free_port 8000; http=$port
free_port 8001; grpc=$port
free_port 7070; router=$port
free_port 9101; router_metrics=$port

log=$(mktemp -d)
pids=()
declare -A command_of name_of
stop() {
  trap - EXIT INT TERM
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$log"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() {
  local name=$1
  shift
  "$@" >>"$log/$name" 2>&1 &
  pids+=($!)
  name_of[$!]=$name
  command_of[$name]="${*@Q}"
}
start router "$bin/braid-router" --listen "127.0.0.1:$router" --workers "$workers" \
  --metrics-port "$router_metrics"
for ((i = 0; i < workers; i++)); do
  free_port $((9110 + i))
  own_device=$device
  [ "$device" != cuda ] || own_device="cuda:$i"
  start "worker-$i" "$bin/braid-expert-worker" --model "$model" --router "127.0.0.1:$router" --name "worker-$i" \
    --device "$own_device" --threads 1 --metrics-port "$port"
done
start gateway "$bin/braid-gateway" --model "$model" --router "127.0.0.1:$router" --port "$http" --grpc-port "$grpc"

ready() {
  { exec 3<>"/dev/tcp/127.0.0.1/$http"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
  head -n 1 <&3 | grep -q ' 200 '
}
for ((tries = 0; ; tries++)); do
  ready && break
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null ||
      { echo "${name_of[$pid]} ended at its start:" >&2; tail -n 5 "$log/${name_of[$pid]}" >&2; exit 1; }
  done
  [ "$tries" -lt 1200 ] || { echo "Not ready after two minutes:" >&2; tail -n 5 "$log"/* >&2; exit 1; }
  sleep 0.1
done

echo "Gateway, router and $workers workers are up. Asking: $prompt"
echo
"$bin/braid" chat --server "127.0.0.1:$grpc" --max-tokens 300 --once "$prompt"
[ -z "$once" ] || exit 0

cat <<TEXT

It stays up at http://127.0.0.1:$http/v1 (gRPC: 127.0.0.1:$grpc, logs: $log). Try

  curl http://127.0.0.1:$http/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"messages": [{"role": "user", "content": "Hi, who are you?"}]}'
  $bin/braid chat --server 127.0.0.1:$grpc
  pkill -9 -n -f braid-expert-worker   # in the middle of an answer: it goes on

Ctrl-C ends it.
TEXT
while true; do
  wait -n -p ended "${pids[@]}" 2>/dev/null || true
  name=${name_of[$ended]}
  echo "$name (process $ended) has ended; starting it again. Its last words:"
  tail -n 2 "$log/$name"
  left=()
  for pid in "${pids[@]}"; do [ "$pid" = "$ended" ] || left+=("$pid"); done
  pids=("${left[@]}")
  sleep 1
  eval "start $name ${command_of[$name]}"
done
