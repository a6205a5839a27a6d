#!/bin/sh
# Builds reconstruct.c against the C library that the Python package of TensorFlow brings: sh build_c.sh PROGRAM
# PYTHON names the Python that has it, CC the compiler.
set -e
tensorflow=$("${PYTHON:-python3}" -c 'import importlib.util as u; print(u.find_spec("tensorflow").submodule_search_locations[0])')
${CC:-cc} -std=c11 -O2 -Wall -Wextra -o "$1" "$(dirname "$0")/reconstruct.c" -I "$tensorflow/include" \
  "$tensorflow/libtensorflow_cc.so.2" "$tensorflow/libtensorflow_framework.so.2" "-Wl,-rpath,$tensorflow"
