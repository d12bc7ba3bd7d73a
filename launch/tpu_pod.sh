#!/usr/bin/env bash
# Train on a Cloud TPU pod: create it, install hsproto on all workers, run on all, delete it.
#
#   launch/tpu_pod.sh [--dry-run] [--keep] [--spot] [--tries=N] [--version=RUNTIME] \
#     --name=NAME --zone=ZONE --type=v5litepod-16 --nfs=HOST:/SHARE \
#     --config=configs/cifar.py:loss=nonl --workdir=cifar
#
# The share, e.g. of Filestore, is mounted on every worker: the workdir is a folder in it, and so
# must be the config's data_dir, if any (/mnt/hsproto/...). All other flags go to `hsproto train`. A
# run that dies is restarted and resumes, up to N times, on a new pod if the old one was preempted;
# errors that would recur (status 2) are not retried. --keep does not delete the pod. An existing pod
# of that name is used.
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

# Copy only what is committed, as one file: a copy of the folder would include .venv and runs.
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

# Some images have a Python older than 3.11.
install="set -e
sudo apt-get update -q && sudo apt-get install -yq nfs-common
python=python3
\$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' ||
  { sudo apt-get install -yq python3.11-venv; python=python3.11; }
sudo mkdir -p /mnt/hsproto
mountpoint -q /mnt/hsproto || sudo mount -t nfs $nfs /mnt/hsproto
mkdir -p hsproto && tar -xzf hsproto.tar.gz -C hsproto
\$python -m venv .venv && .venv/bin/pip install -q './hsproto[train,tpu]'"

# Create the pod and install hsproto, unless done already.
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
