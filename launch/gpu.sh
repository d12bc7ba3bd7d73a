#!/usr/bin/env bash
# Train on the GPUs of this machine; restart a run that died until it is finished.
#
#   launch/gpu.sh [--dry-run] [--tries=N] --config=configs/cifar.py:loss=nonl --workdir=runs/cifar
#
# All flags but --dry-run and --tries go to `hsproto train`. Errors that would recur (status 2) end it
# at once. SIGTERM and Ctrl-C let the run save and exit. CUDA_VISIBLE_DEVICES selects GPUs, PYTHON
# the interpreter (default: that of .venv if it exists).
set -u

tries=5 dry=false flags=()
for flag in "$@"; do
  case "$flag" in
    --dry-run) dry=true ;;
    --tries=*) tries=${flag#--tries=} ;;
    *) flags+=("$flag") ;;
  esac
done
if ! [[ $tries =~ ^[1-9][0-9]{0,5}$ ]]; then
  echo "hsproto: --tries=$tries must be a positive integer; see the head of launch/gpu.sh" >&2
  exit 2
fi
[ -x .venv/bin/python ] && default=.venv/bin/python || default=python3
command=("${PYTHON:-$default}" -m hsproto.train "${flags[@]}")
if $dry; then
  printf 'up to %s times, until it ends with status 0:' "$tries"
  printf ' %q' "${command[@]}"
  echo
  exit 0
fi

child='' stopping=false
# shellcheck disable=SC2329  # called by the trap
stop() {
  stopping=true
  [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT HUP

for ((try = 1; try <= tries; try++)); do
  "${command[@]}" &
  child=$!
  # A signal may have come a moment before.
  if $stopping; then stop; fi
  while :; do
    wait "$child"
    status=$?
    # A signal ends `wait`, but the run saves first.
    { [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null; } || break
  done
  child=''
  { [ "$status" -eq 0 ] || [ "$status" -eq 2 ] || $stopping; } && exit "$status"
  echo "hsproto: ended with status $status, try $try of $tries" >&2
  sleep 5 &
  wait $! # which a signal ends, unlike sleep
  if $stopping; then exit "$status"; fi
done
exit 1
