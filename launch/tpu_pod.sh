#!/usr/bin/env bash
# Train on a Cloud TPU pod: create it, install hsproto on every worker, run on all, delete it.
#
#   launch/tpu_pod.sh [--dry-run] [--keep] [--spot] [--reservation=NAME] [--project=ID] \
#     [--network=NAME] [--tries=N] [--version=RUNTIME] [--gcloud FLAG...] \
#     --name=NAME --zone=ZONE --type=v5litepod-16 --nfs=HOST:/SHARE \
#     --config=configs/cifar.py:loss=nonl --workdir=cifar
#
# The share, e.g. a Filestore instance, is mounted on every worker: --workdir is a folder on it, so
# that the run outlives the pod, and data_dir must be a path below /mnt/hsproto. What follows --gcloud
# goes to `gcloud compute tpus tpu-vm create`; all other flags go to `hsproto train`.
#
# A pod of that name that exists already is used and left standing: this script deletes only a pod
# that this very call created, unless --keep is given. A run that dies is started again, and resumes,
# up to N times, on a new pod where this call's pod was preempted. Status 2 ends it: another try
# would meet the same. Before anything is created the config must load and be committed.
set -u

dry=false keep=false tries=5 version=''
name='' zone='' type='' nfs='' workdir='' config='' flags=() create=() where=() rest=false
for flag in "$@"; do
  if $rest; then
    create+=("$flag")
    continue
  fi
  case "$flag" in
    --dry-run) dry=true ;;
    --keep) keep=true ;;
    --gcloud) rest=true ;;
    --spot | --reservation=* | --network=*) create+=("$flag") ;;
    --project=*) where+=("$flag") ;;
    --tries=*) tries=${flag#*=} ;;
    --version=*) version=${flag#*=} ;;
    --name=*) name=${flag#*=} ;;
    --zone=*) zone=${flag#*=} ;;
    --type=*) type=${flag#*=} ;;
    --nfs=*) nfs=${flag#*=} ;;
    --workdir=*) workdir=${flag#*=} ;;
    --config=*) config=${flag#*=} flags+=("$flag") ;;
    *) flags+=("$flag") ;;
  esac
done
refuse() {
  echo "hsproto: $1" >&2
  exit 2
}
for needed in name zone type nfs config workdir; do
  [ -n "${!needed}" ] || refuse "--$needed is missing; see the head of $0"
done
case "$workdir" in
  /* | *://* | '~'* | *..*) refuse "--workdir=$workdir must be a folder on the share, e.g. cifar" ;;
esac

run() {
  if $dry; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}
pod=(gcloud compute tpus tpu-vm)
here=("$name" "--zone=$zone" "${where[@]}")
on_all() { run "${pod[@]}" ssh "${here[@]}" --worker=all "--command=$1"; }

root=$(cd "$(dirname "$0")/.." && pwd)

# What would fail on a pod that is paid for fails here.
preflight() {
  local file=${config%%:*} changed
  changed=$(git -C "$root" status --porcelain -- hsproto configs launch setup.cfg requirements.txt)
  [ -z "$changed" ] ||
    refuse "only what is committed reaches the pod, and this is not: ${changed//$'\n'/,}"
  git -C "$root" ls-files --error-unmatch -- "$file" >/dev/null 2>&1 ||
    refuse "--config=$file is not a committed file of this checkout"
  [ -x "$root/.venv/bin/python" ] && default=$root/.venv/bin/python || default=python3
  (cd "$root" && "${PYTHON:-$default}" - "$config") <<'CHECK' || exit 2
import sys

from hsproto import cli
from hsproto.errors import UserError


def check(argv):
    try:
        config = cli.load_config(argv[0])
    except ModuleNotFoundError as error:
        raise UserError(
            f"the config is checked before a pod is created, and {error.name} is missing here: "
            "pip install 'hsproto[train]'"
        ) from None
    if config.source != "digits" and not config.data_dir.startswith("/mnt/hsproto/"):
        raise UserError(
            f"config key data_dir={config.data_dir!r} must be a path below /mnt/hsproto, the share"
        )


cli.run(check, sys.argv[1:])
CHECK
}
$dry || preflight

# Only what is committed travels, as one file: a copy of the folder would take .venv and runs along.
archive=$(mktemp -u).tar.gz
run git -C "$root" archive --format=tar.gz "--output=$archive" HEAD || exit 1

case "$type" in
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) runtime=tpu-ubuntu2204-base ;;
esac

# Whether this call created the pod that stands: no other one is ever deleted.
created=false
remove() {
  run "${pod[@]}" delete "${here[@]}" --quiet && created=false
}
# shellcheck disable=SC2329  # called by the trap
finish() {
  rm -f "$archive"
  if $created && ! $keep; then
    echo "hsproto: deleting the pod $name, which this call created" >&2
    remove
  elif ! $dry && "${pod[@]}" describe "${here[@]}" >/dev/null 2>&1; then
    echo "hsproto: the pod $name is left standing" >&2
  fi
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
      $created || refuse "the pod $name is $state and was not created by this call: delete it yourself"
      remove || return 1
      state=''
      ;;
  esac
  if [ -z "$state" ]; then
    ready=false
    run "${pod[@]}" create "${here[@]}" "--accelerator-type=$type" \
      "--version=${version:-$runtime}" "${create[@]}" || return 1
    created=true
  fi
  $ready && return 0
  run "${pod[@]}" scp "$archive" "$name:hsproto.tar.gz" "--zone=$zone" "${where[@]}" --worker=all &&
    on_all "$install" && ready=true
}

# Where ssh was dropped the old processes may still run: they save and end before others start.
stop="pkill -TERM -f '[h]sproto.train'
for i in \$(seq 150); do pgrep -f '[h]sproto.train' >/dev/null || break; sleep 1; done"
arguments=$(printf ' %q' "${flags[@]}" "--workdir=/mnt/hsproto/$workdir")
status=1
for ((try = 1; try <= tries; try++)); do
  if prepare; then
    on_all "$stop"
    on_all "cd hsproto && ../.venv/bin/python -m hsproto.train --distributed$arguments"
    status=$?
    { $dry || [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; } && break
  fi
  echo "hsproto: ended with status $status, try $try of $tries" >&2
  sleep 10
done
exit "$status"
