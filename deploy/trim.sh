#!/bin/sh
# Removes from an environment what the service never loads, and compiles what it does: trim.sh VENV
set -eu
cd "$1"/lib/python3.*/site-packages

rm -rf torch/include torch/test torch/share torch/lib/lib*test*.so
find torch/bin -mindepth 1 ! -name torch_shm_manager -delete
rm -rf ray/jars ray/rllib ray/llm ray/cpp ray/include ray/dashboard/client/build/static/js/*.map
for package in sympy networkx numpy mpmath; do
  [ -d "$package" ] && find "$package" -type d -name tests -prune -exec rm -rf {} +
done
find . -type f \( -name '*.a' -o -name '*.pxd' \) -delete

# pip would compile everything; a third of it is enough for a start, and the root of a container is read-only.
"$1"/bin/python -m compileall -q -j 0 -x \
  '/(torch/(_inductor|testing|onnx)|ray/(data|tune|train)|networkx|setuptools|pygments/lexers|pyasn1_modules|triton/tools)/' . ||
  true # templates that are not Python
