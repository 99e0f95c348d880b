#!/usr/bin/env bash
# A virtual environment with exactly what locks say: requirements/install.sh FOLDER LOCK...
#
# PYTHON   the interpreter that makes the environment (python3)
# TORCH    cpu or cuda; cuda where an NVIDIA GPU answers. cpu takes torch's CPU build where pip finds one for this Python
#          (torch-cpu.txt), else, as cuda does, PyPI's build with its CUDA libraries. Locks that have a torch of their own
#          (oldest.txt) get that one.
set -euo pipefail
cd "$(dirname "$0")"
folder=$(cd .. && realpath -m "$1")
shift
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"

install() {
    "$folder/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --require-hashes "$@"
}

install -r pip.txt
install -r build.txt # the tools of the few packages that come as source, which thus build against this torch
if ! grep -q '^torch==' "$@"; then
    torch=${TORCH:-$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)}
    if [ "$torch" != cpu ]; then
        install -r torch.txt
    elif ! install -r torch-cpu.txt 2>/dev/null; then
        echo "there is no CPU build of torch for this Python: PyPI's build, with its CUDA libraries"
        install -r torch.txt
    fi
fi
for lock in "$@"; do
    install -r "$lock"
done
# genrec itself, from this checkout, built by the setuptools of the lock
"$folder/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation -e ..
