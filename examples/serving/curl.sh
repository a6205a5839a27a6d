#!/bin/sh
# A lens by curl and JSON, in whatever language can do that: sh curl.sh http://127.0.0.1:8501 REQUEST.json
# REQUEST.json: {"signature_name": "gaussian_psf", "instances": [{"image": [[...]], "noise_rms": [[...]], "mask": [[true]],
# "psf": 0.05, "lens": [1.2, 0.1, 0, 0, 0, 0, 0], "pixel_scale": 0.08, "source_pixel_scale": 0.031}]}
set -e
curl --silent --show-error --fail "$1/v1/models/rim" >&2
curl --silent --show-error --fail "$1/v1/models/rim:predict" --header "Content-Type: application/json" --data-binary "@$2"
