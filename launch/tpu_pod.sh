#!/usr/bin/env bash
# Trains on a Cloud TPU pod: creates it, installs hsproto on every worker, runs on all, deletes it.
#
#   launch/tpu_pod.sh [--dry-run] [--keep] [--spot] [--tries=N] [--version=RUNTIME] \
#     --name=NAME --zone=ZONE --type=v5litepod-16 --nfs=HOST:/SHARE \
#     --config=configs/cifar.py:loss=nonl --workdir=cifar
#
# The share, for example a Filestore one, is mounted on every worker: the workdir is a folder of it,
# and data_dir, where the config names one, is /mnt/hsproto/... too. All other flags go to
# `hsproto train`. A run that dies is started again, and resumes, up to N times, on a new pod
# where the old one was preempted; what another try would meet again (status 2) is not. --keep leaves
# the pod standing. A pod of that name that is there already is used.
set -u

dry=false keep=false tries=5 version=''
name='' zone='' type='' nfs='' workdir='' flags=() create=()
for flag in "$@"; do
  case "$flag" in
    --dry-run) dry=true ;;
    --keep) keep=true ;;
    --spot) create+=(--spot) ;;
    --tries=*) tries=${flag#*=} ;;
    --version=*) version=${flag#*=} ;;
    --name=*) name=${flag#*=} ;;
    --zone=*) zone=${flag#*=} ;;
    --type=*) type=${flag#*=} ;;
    --nfs=*) nfs=${flag#*=} ;;
    --workdir=*) workdir=${flag#*=} ;;
    *) flags+=("$flag") ;;
  esac
done
for needed in name zone type nfs workdir; do
  if [ -z "${!needed}" ]; then
    echo "hsproto: --$needed is missing; see the head of $0" >&2
    exit 2
  fi
done

run() {
  if $dry; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
pod=(gcloud compute tpus tpu-vm)
here=("$name" "--zone=$zone")
on_all() { run "${pod[@]}" ssh "${here[@]}" --worker=all "--command=$1"; }

# Only what is committed travels, as one file: a copy of the folder would take .venv and runs along.
archive=$(mktemp -u).tar.gz
root=$(cd "$(dirname "$0")/.." && pwd)
run git -C "$root" archive --format=tar.gz "--output=$archive" HEAD || exit 1

case "$type" in
  v5litepod-*) default=v2-alpha-tpuv5-lite ;;
  v5p-*) default=v2-alpha-tpuv5 ;;
  v6e-*) default=v2-alpha-tpuv6e ;;
  *) default=tpu-ubuntu2204-base ;;
esac

# shellcheck disable=SC2329  # called by the trap
finish() {
  rm -f "$archive"
  $keep || run "${pod[@]}" delete "${here[@]}" --quiet
}
trap finish EXIT

# Some of the images hold an older Python than 3.11.
install="set -e
sudo apt-get update -q && sudo apt-get install -yq nfs-common
python=python3
\$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' ||
  { sudo apt-get install -yq python3.11-venv; python=python3.11; }
sudo mkdir -p /mnt/hsproto
mountpoint -q /mnt/hsproto || sudo mount -t nfs $nfs /mnt/hsproto
mkdir -p hsproto && tar -xzf hsproto.tar.gz -C hsproto
\$python -m venv .venv && .venv/bin/pip install -q './hsproto[train,tpu]'"

# A pod that stands and has hsproto; nothing to do where it is so already.
ready=false
prepare() {
  local state=''
  $dry || state=$("${pod[@]}" describe "${here[@]}" '--format=value(state)' 2>/dev/null)
  case "$state" in
    PREEMPTED | TERMINATED)
      run "${pod[@]}" delete "${here[@]}" --quiet
      state=''
      ;;
  esac
  if [ -z "$state" ]; then
    ready=false
    run "${pod[@]}" create "${here[@]}" "--accelerator-type=$type" \
      "--version=${version:-$default}" "${create[@]}" || return 1
  fi
  $ready && return 0
  run "${pod[@]}" scp "$archive" "$name:hsproto.tar.gz" "--zone=$zone" --worker=all &&
    on_all "$install" && ready=true
}

arguments=$(printf ' %q' "${flags[@]}" "--workdir=/mnt/hsproto/$workdir")
status=1
for ((try = 1; try <= tries; try++)); do
  if prepare; then
    on_all "cd hsproto && ../.venv/bin/python -m hsproto.train --distributed$arguments"
    status=$?
    { $dry || [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; } && break
  fi
  echo "hsproto: ended with status $status, try $try of $tries" >&2
  sleep 10
done
exit "$status"
