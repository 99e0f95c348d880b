#!/usr/bin/env bash
# A new virtual environment with the newest release of everything that pyproject.toml names, its ranges ignored, vLLM left
# out: requirements/newest.sh FOLDER. Prints what it got.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
python=$folder/bin/python

names() {
    "$python" - <<'END'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
names = {re.match(r"[\w.-]+(\[[\w,-]+\])?", one)[0] for group in groups for one in group}
print(*sorted(names - {"vllm"}))
END
}

install() {
    "$python" -m pip --disable-pip-version-check install --quiet --upgrade "$@"
}

install pip
install setuptools torch # what comes as source is built by these, not by a torch of its own
# shellcheck disable=SC2046  # one argument a name
install --no-build-isolation $(names)
install --no-deps --no-build-isolation -e .
"$python" --version
for name in $(names); do
    "$python" -m pip --disable-pip-version-check list 2>/dev/null | grep -i "^${name%%[*} " || true
done
