#!/bin/bash
# build.sh [OPTIONS of packs.py]: at home, in a checkout with `make dev`: fetch packages and networks, build the held-out sets, write
# the packs of build/demo_run for the host's Python (--python, 3.12 by default). The training sets are recorded on the host: they are
# 24 GB, and those by class 39 GB, while the packages that they are made from take 0.3 GB.
set -euo pipefail
cd "$(dirname "$0")/../.."
held_out=(photographs-128 photographs-256 camera-128 procgen-128 vizdoom-128 photographs-512 camera-65)
.venv/bin/python -m training data networks
.venv/bin/python -m training data build demo $(printf -- '--set held-out/%s ' "${held_out[@]}")
.venv/bin/python -m tools.demo_run.packs "$@"
