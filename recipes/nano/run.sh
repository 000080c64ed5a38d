#!/bin/sh
# Nano from nothing: download, draw, train, measure. Stopped and started again, it goes on.
#     recipes/nano/run.sh          the shipped one, five styles, hours on two cores
#     recipes/nano/run.sh quick    food and animals in two styles, under an hour
set -eu
cd "$(dirname "$0")/../.."
name=${1:-full}
python=${PYTHON:-python}
recipe=recipes/nano/$name
run=runs/nano/$name
processes=${PROCESSES:-2} # each with one thread; their gradients are averaged
train="$python -m torch.distributed.run --standalone --nproc-per-node $processes -m dromaius.cli.main train"

[ -f runs/nano/data/data.json ] || $python recipes/nano/build_data.py
[ -f $run/heldout.jsonl ] ||
    $python recipes/nano/make_examples.py --selection $recipe/selection.json --out $run/examples.jsonl
[ -f $run/vision_tokenizer/config.json ] || $train $recipe/vision_tokenizer.toml
[ -f $run/ids/heldout_answers.safetensors ] || $python recipes/nano/write_ids.py --run $run
[ -f $run/model/config.json ] || $train $recipe/language_model.toml
model=$run/model
stage=1
for ordinal in second third fourth fifth; do
    [ -f $recipe/${ordinal}_stage.toml ] || break
    stage=$((stage + 1))
    model=$run/model_$stage
    # The last stage shows each picture in other places and on other colours than those before.
    if [ $ordinal = fifth ] && [ ! -f $run/ids/answers_more.safetensors ]; then
        $python recipes/nano/make_examples.py --selection $recipe/selection.json --seed 3 \
            --out $run/more/examples.jsonl
        $python recipes/nano/write_ids.py --run $run --more
    fi
    [ -f $model/config.json ] || $train $recipe/${ordinal}_stage.toml
done
if [ $stage -gt 1 ]; then # of two stages the mean is better than either
    $python recipes/nano/average.py $run/model_$((stage - 1)) $model --out $run/average
    model=$run/average
fi
[ -f runs/nano/twemoji/data.json ] ||
    $python recipes/nano/build_data.py --styles twemoji --out runs/nano/twemoji
[ -f $run/evaluation/set.json ] ||
    $python recipes/nano/make_evaluation.py --selection $recipe/selection.json --out $run/evaluation
$python -m dromaius.cli.main eval nano --model $model --data $run/evaluation --markdown |
    tee $run/figures.md
