"""The built distribution: one name, whole, usable away from the checkout, beside others that are called like its rooms.

The wheel is built from the sdist, and installed alone in an environment whose other packages are those of this one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from worlds.small_shop import SMALL, write_shop

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("genrec", "semtok", "training", "inference", "pyproject.toml", "README.md", "LICENSE")
DATA = {
    "genrec/py.typed",
    "genrec/data/sample_shop.yaml",
    "genrec/evaluation/report.html",
    "genrec/inference/chat/page.css",
    "genrec/inference/chat/page.html",
    "genrec/inference/chat/page.js",
}
ROOMS = ("semtok", "training", "inference")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Installed:
    """An environment that has the packages of this one, and what is installed into it: no checkout."""

    folder: Path

    @property
    def packages(self) -> Path:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def pip(self, *arguments: str) -> None:
        """Install or uninstall here alone: pip doesn't see the packages of the environment around it."""
        borrowed = self.packages / "borrowed.pth"
        borrowed.unlink(missing_ok=True)
        python = str(self.folder / "bin/python")
        command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT)
        # One line of a .pth is one path: what that folder has of its own, such as the checkout's, is not read.
        borrowed.write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist and of the wheel that was built from it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tree / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist")]
    done = subprocess.run(command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(distribution: Path) -> Path:
    (found,) = distribution.glob("*.whl")
    return found


def make_environment(folder: Path) -> Installed:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, env=ENVIRONMENT)
    return Installed(folder)


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, and nothing of the checkout."""
    environment = make_environment(tmp_path_factory.mktemp("alone") / "venv")
    environment.pip("install", "--no-deps", str(wheel))
    return environment


def write_wheel(folder: Path, name: str, packages: tuple[str, ...]) -> Path:
    """A wheel of another distribution, each of whose packages says whose it is."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    files = {f"{package}/__init__.py": f"OWNER = {name!r}\n" for package in packages}
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def test_the_wheel_has_one_name_and_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0].removesuffix(".dist-info").partition("-")[0] for name in names} == {"genrec"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "genrec").glob("**/*.py")}
    for room in ROOMS:  # links in the checkout, which a pattern does not follow
        sources |= {str(Path("genrec") / path.relative_to(ROOT)) for path in (ROOT / room).glob("**/*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert names >= DATA


def test_the_sdist_has_files_and_no_links(distribution: Path) -> None:
    (path,) = distribution.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert not [one.name for one in members if one.issym() or one.islnk()]
    top = path.name.removesuffix(".tar.gz")
    assert {one.name.removeprefix(f"{top}/") for one in members} >= DATA | {"pyproject.toml", "LICENSE"}


def test_the_wheel_answers_away_from_the_checkout(alone: Installed, tmp_path: Path) -> None:
    where = alone.run("python", "-c", "import genrec; print(genrec.__file__, genrec.__version__)", cwd=tmp_path).stdout
    assert where.startswith(str(alone.packages))
    assert "usage: genrec COMMAND" in alone.run("genrec", "--help", cwd=tmp_path).stdout
    assert alone.run("genrec", "--version", cwd=tmp_path).stdout == f"genrec {where.split()[1]}\n"


SAY = """
import importlib, json
from genrec import Catalog
from genrec.training.loop import batching
found = {}
for name in ("semtok", "training", "inference"):
    try:
        found[name] = importlib.import_module(name).OWNER
    except ImportError:
        found[name] = None
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["genrec", "other"])
def test_other_distributions_with_our_names_change_nothing(first: str, wheel: Path, tmp_path: Path) -> None:
    """Whichever comes first: each imports its own, and uninstalling one leaves the other whole."""
    other = write_wheel(tmp_path, "other", ROOMS)
    environment = make_environment(tmp_path / "venv")
    wheels = [wheel, other] if first == "genrec" else [other, wheel]
    for one in wheels:
        environment.pip("install", "--no-deps", str(one))
    both = json.loads(environment.run("python", "-c", SAY, cwd=tmp_path).stdout)
    assert both == dict.fromkeys(ROOMS, "other")
    files = set((environment.packages / "genrec").glob("**/*.py"))
    environment.pip("uninstall", "-y", "other")
    assert json.loads(environment.run("python", "-c", SAY, cwd=tmp_path).stdout) == dict.fromkeys(ROOMS)
    assert set((environment.packages / "genrec").glob("**/*.py")) == files
    environment.pip("install", "--no-deps", str(other))
    environment.pip("uninstall", "-y", "genrec")
    assert [(environment.packages / room / "__init__.py").is_file() for room in ROOMS] == [True] * 3


@pytest.mark.slow
def test_a_project_with_rooms_of_its_own_is_not_disturbed(alone: Installed, tmp_path: Path) -> None:
    """A script runs in a folder that has its own training/ and inference/, as most projects do."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("OWNER = 'project'\n")
    assert json.loads(alone.run("python", "-c", SAY, cwd=tmp_path).stdout) == dict.fromkeys(ROOMS, "project")


@pytest.fixture(scope="module")
def shop(alone: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small shop, its run fitted by the wheel's command: few epochs, else the defaults."""
    folder = tmp_path_factory.mktemp("shop")
    short = ["--collaborative.epochs=1", "--aligner.training.epochs=1", "--lm.epochs=1"]
    alone.run("genrec", "fit", str(write_shop(folder)), *short, cwd=folder)
    return folder


@pytest.mark.slow
def test_fit_and_recommend(alone: Installed, shop: Path) -> None:
    assert (shop / "run/report/report.html").is_file()
    alone.run("genrec", "recommend", "run", "--out", "lists", "--k", "3", cwd=shop)
    assert list((shop / "lists").glob("*.parquet"))


@pytest.mark.slow
def test_the_language_model_under_accelerate(alone: Installed, shop: Path) -> None:
    """`accelerate launch -m genrec.training.finetune`, in a folder of its own."""
    (shop / "stage").mkdir()
    config = write_shop(shop / "stage")
    alone.run("genrec", "fit", str(config), *SMALL, "--before_lm", cwd=shop)
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    stage = ["-m", "genrec.training.finetune", "--config", str(shop / "stage/run/config.yaml")]
    alone.run("python", *launch, *stage, cwd=shop)
    assert (shop / "stage/run/lm/model.safetensors").is_file()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(alone: Installed, *command: str, cwd: Path) -> Iterator[str]:
    """The address of a command that serves, once it answers."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with (cwd / "served.log").open("w") as log:
        process = subprocess.Popen(
            [str(alone.folder / "bin/genrec"), *command, "--port", str(port)],
            cwd=cwd, env=ENVIRONMENT, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(address, timeout=5).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    assert process.poll() is None, (cwd / "served.log").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def get(address: str | urllib.request.Request) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_serve(alone: Installed, shop: Path) -> None:
    (line,) = pl.read_parquet(shop / "run/topk/*.parquet").head(1).to_dicts()
    with running(alone, "serve", "run", cwd=shop) as address:
        stored = json.loads(get(f"{address}/v1/users/{line['user_id']}/recommendations?k=3"))
        assert [item["item_id"] for item in stored["items"]] == line["item_ids"][:3]
        asked = {"history": line["item_ids"][:2], "k": 3}
        live = urllib.request.Request(
            f"{address}/v1/recommendations", json.dumps(asked).encode(), {"content-type": "application/json"}
        )
        assert len(json.loads(get(live))["items"]) == 3


@pytest.mark.slow
def test_the_chat_page_has_its_files(alone: Installed, shop: Path) -> None:
    chat = alone.packages / "genrec/inference/chat"
    with running(alone, "chat", "run", "--web", cwd=shop) as address:
        for path, name in (("", "page.html"), ("page.css", "page.css"), ("page.js", "page.js")):
            assert get(f"{address}/{path}") == (chat / name).read_text(encoding="utf-8")
        assert json.loads(get(f"{address}/api/shop"))["runs"] == ["run"]
