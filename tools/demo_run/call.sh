#!/bin/bash
# call.sh UNTIL [HOW]: one call to the host, in the root of the tree there. It takes the packs that came with it, starts the run
# or goes on with it where its process is gone, waits until the host's clock shows UNTIL seconds, or a job has failed, and leaves
# results in $OUT. HOW are options of host.py, read by the first call alone. Status 3: the host died meanwhile, or did not start.
set -euo pipefail
until=$1; shift
work=${DEMO_RUN_WORK:-/tmp/demo-run}
mkdir -p "$work/packs" "$work/incoming" "$work/taken"
python3 -m tools.demo_run.life "$work" "$@" || echo "no host could be started"
for pack in build/demo_run/*/*.tar; do
    name=$(basename "$pack")
    if [ -e "$pack" ] && ! [ -e "$work/taken/$name" ]; then
        # the host watches `packs`: a pack is whole when it gets its name there
        cp "$pack" "$work/incoming/$name" && mv "$work/incoming/$name" "$work/packs/$name"
    fi
done
python3 -m tools.demo_run.collect "$work" "$OUT" --until "$until"
