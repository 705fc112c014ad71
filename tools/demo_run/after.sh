#!/bin/bash
# after.sh [ITEMS]: at home, when the parts of all calls are below build/demo_run/returned: join, install, measure, write cards, tables
# and pictures. ITEMS of each held-out set are measured, all by default; not what the host or an earlier run has measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PWD/.venv/bin:$PATH
items=${1:+--items $1}
bundles=${DEMO_RUN_BUNDLES:-bundles}
mkdir -p build/demo_run/former
for name in demo-vq demo-vae; do [ -e build/demo_run/former/$name ] || cp -r bundles/$name build/demo_run/former/; done
python -m tools.demo_run.adopt install --bundles "$bundles" ${COMMIT:+--commit $COMMIT}
for name in demo-vq demo-vq-sharp demo-vae; do
    [ -e "$bundles/$name" ] || continue
    out=runs/evaluation/$name
    [ -e "$out/evaluation.json" ] || python -m training evaluate "$bundles/$name" --out "$out" $items
    [ -e "$out/sweep/psnr-by-frame.json" ] || python -m training evaluate "$bundles/$name" --sweep --out "$out/sweep"
done
if ! [ -e runs/evaluation/codecs.json ]; then
    tokenizers=()
    for name in demo-vq demo-vq-sharp demo-vae; do [ ! -e "$bundles/$name" ] || tokenizers+=("$bundles/$name"); done
    python -m benchmarks.codecs "${tokenizers[@]}" --items 8 --vgg data/networks/vgg16.safetensors --out runs/evaluation/codecs.json ${DEMO_RUN_SIDES:-}
fi
python -m tools.demo_run.adopt cards --bundles "$bundles"
python -m tools.demo_run.tables
python -m tools.demo_run.pictures --bundles "$bundles" --former build/demo_run/former/demo-vq build/demo_run/former/demo-vae
git status --short
