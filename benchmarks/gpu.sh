#!/usr/bin/env bash
# Everything that a GPU has to tell about decoding, in less than ten minutes:
#
#     benchmarks/gpu.sh            on a GPU of 80 GB or more: the published 8B model, random weights
#     benchmarks/gpu.sh --small    on whatever is here, a CPU too: does the script itself run?
#
# Each phase writes its line to $OUT/gpu.jsonl as soon as it is done (default: runs/gpu), so that
# nothing is lost if time runs out. $PYTHON chooses the interpreter; one that has torch and
# transformers is used as it is, otherwise an environment is made and filled, which needs a network.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-runs/gpu}
python=${PYTHON:-python3}
mkdir -p "$out"

if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
    python=.venv/bin/python
    if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
        echo "gpu.sh: no torch and transformers in ${PYTHON:-python3}: filling .venv" >&2
        "${PYTHON:-python3}" -m venv .venv
        "$python" -m pip install --quiet -c constraints.txt -e '.[dev]'
    fi
fi

export PYTHONPATH="$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1

# The tests that need a GPU first: figures of a wrong step are worth nothing.
if "$python" -c 'import pytest, torch; assert torch.cuda.is_available()' 2>/dev/null; then
    timeout 120 "$python" -m pytest -q -m gpu tests/engine tests/nn >"$out/tests.txt" 2>&1 ||
        echo "gpu.sh: the GPU's tests failed, see $out/tests.txt" >&2
    tail -n 1 "$out/tests.txt"
fi

exec "$python" -m benchmarks.gpu --out "$out" "$@"
