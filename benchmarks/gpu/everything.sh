#!/usr/bin/env bash
# Every open question about GPUs in a quarter of an hour, on any machine with one: leaves everything.json and prints a table.
#
#   benchmarks/gpu/everything.sh [--json FILE] [--only STEP ...]
#
# What a step found is printed and written when it ends. In two parts, on a machine that is lent for ten minutes at a time:
# `--only tests engine precision contenders`, and `--only service training several` into another FILE.
#
# Needs Python 3.11 or newer with torch 2.11 or newer, torchvision and pydantic 2.12 or newer. Steps that need more (pytest;
# onnx and onnxscript; numba, onnxruntime-gpu and what else the service needs) say so. Where packages can't be downloaded,
# WHEELS is a folder of those to be installed first; PYTHON is another interpreter than python3.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
if [ -n "${WHEELS:-}" ]; then
    # Without what they depend on: torch stays as it is.
    "$python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
exec "$python" -m benchmarks.gpu.everything "$@"
