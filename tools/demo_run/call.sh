#!/bin/bash
# call.sh UNTIL [HOW]: one call to the host, in the root of the tree there. It takes the packs that came with it, starts the run
# if it is not running, waits until the host's clock shows UNTIL seconds, or a job has failed, and leaves results in $OUT.
# HOW are options of host.py, read by the first call alone.
set -euo pipefail
until=$1; shift
work=${DEMO_RUN_WORK:-/tmp/demo-run}
if ! [ -e "$work/clock" ]; then
    mkdir -p "$work/code" "$work/packs" "$work/taken"
    cp -r kernels media model training tools "$work/code/"   # later calls may write these files anew under the running run
    # nothing of it may hold this call's pipes, which would keep the call waiting
    cd "$work"
    PYTHONPATH=code setsid nohup python3 -m tools.demo_run.host . "$@" >supervisor.log 2>&1 </dev/null &
    cd - >/dev/null
    for _ in $(seq 50); do [ -e "$work/clock" ] || sleep 0.2; done
fi
for pack in build/demo_run/*/*.tar; do
    name=$(basename "$pack")
    if [ -e "$pack" ] && ! [ -e "$work/taken/$name" ]; then
        cp "$pack" "$work/packs/.$name" && mv "$work/packs/.$name" "$work/packs/$name" && touch "$work/taken/$name"
    fi
done
cd "$work"
PYTHONPATH=code python3 -m tools.demo_run.collect . "$OUT" --until "$until"
