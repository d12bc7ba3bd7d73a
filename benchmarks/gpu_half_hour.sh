#!/usr/bin/env bash
# What a GPU (or TPU) is asked first, in half an hour: right numbers, throughput, CIFAR-100.
#
#   benchmarks/gpu_half_hour.sh --out=DIR [--data=cifar100.npz] [--minutes=28] [--toy]
#
# benchmarks/gpu_half_hour.py says what is done. The same command goes on where the last one ended.
# PYTHON is the interpreter (default: that of .venv if it exists).
set -eu

cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] && default=.venv/bin/python || default=python3
exec "${PYTHON:-$default}" benchmarks/gpu_half_hour.py "$@"
