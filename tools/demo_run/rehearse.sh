#!/bin/bash
# rehearse.sh FOLDER [END [GPUS]]: on one machine without a GPU, in a checkout with `make dev`: the whole chain from build to adopt, in
# scratch copies below FOLDER, with recipes of seconds, END seconds for the host, and the plan for so many GPUs. The host is killed
# once on its way. The next rehearsal there takes over the packs.
set -euo pipefail
cd "$(dirname "$0")/../.."
top=$PWD folder=$1 end=${2:-420} gpus=${3:-1}
mkdir -p "$folder" && cd "$folder" && folder=$PWD
rm -rf home host work returned
export PATH=$top/.venv/bin:$PATH DEMO_RUN_WORK=$folder/work
git clone -q "$top" home
ln -s "$top/.venv" home/.venv
mkdir -p home/data host
for name in cache networks demo; do [ ! -e "$top/data/$name" ] || ln -s "$top/data/$name" "home/data/$name"; done
# a tokenizer of the debug size to begin from
(cd home && python - <<'PYTHON'
import torch
from model.bundle import save_bundle
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

torch.manual_seed(0)
save_bundle("build/begin", OmniTokenizer(CONFIGS["debug"]), "# begin\n", dtype=torch.float16)
PYTHON
)
if ! [ -e packs ]; then
    (cd home && bash tools/demo_run/build.sh --begin build/begin --out "$folder/packs" \
        --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')")
fi
for part in kernels media model training tools; do cp -r "home/$part" host/; done
call() {
    number=$(printf %02d $((10#${number:-00} + 1)))
    (cd host && OUT=$folder/returned/$number bash tools/demo_run/call.sh "$@") | tail -15
}
for pack in packs/*/; do   # each call brings a pack; the last one waits
    rm -rf host/build && mkdir -p host/build/demo_run && cp -r "$pack" host/build/demo_run/
    call 0 --small --end "$end" --gpus "$gpus"
done
until [ -e work/runs/demo/3-long/checkpoint.pt ]; do sleep 1; done   # it goes on with `long`
kill -KILL "$(cat work/pid)"
call $((end / 2))
until grep -q '"ended": true' work/status.json; do call $((end + 2)); done   # it returns at each failure
cat work/log
mkdir -p home/build/demo_run && mv returned home/build/demo_run/returned
(cd home && DEMO_RUN_SIDES="--sides 64" bash tools/demo_run/after.sh 4)
