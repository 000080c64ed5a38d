#!/bin/sh
# Nano from nothing: download, draw, train, measure. Stopped and started again, it goes on.
set -eu
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
runs=runs/nano

[ -f $runs/data/data.json ] || $python recipes/nano/build_data.py
[ -f $runs/heldout.jsonl ] ||
    $python recipes/nano/make_examples.py --selection recipes/nano/first.json --variants 24
[ -f $runs/vision_tokenizer/config.json ] ||
    $python -m dromaius.cli.main train recipes/nano/vision_tokenizer.toml
[ -f $runs/ids/heldout_answers.safetensors ] || $python recipes/nano/write_ids.py
[ -f $runs/model/config.json ] ||
    $python -m dromaius.cli.main train recipes/nano/language_model.toml
$python recipes/nano/measure.py --model $runs/model | tee $runs/figures.md
