"""`genrec`: the command line. Bad input ends with one line on standard error and status 2."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence

from genrec.cli.helps import HELPS
from genrec.semtok.errors import InputError

COMMANDS = {
    "fit": "run every stage that is out of date: genrec fit CONFIG [--lm.epochs 10 ...]",
    "compare": "aligners x backbones x seeds, one table: genrec compare CONFIG [--seeds [0] ...]",
    "recommend": "write top-K lists: genrec recommend RUN [--users FILE] [--out FOLDER]",
    "show": "one user's history and list, with titles: genrec show RUN USER",
    "evaluate": "metrics against baselines; of runs by several seeds, one table: genrec evaluate RUN...",
    "inspect": "an item's semantic ID and its neighbours, or how good the IDs are: genrec inspect RUN [ITEM...]",
    "add-items": "give new items IDs without retraining: genrec add-items RUN FILE",
    "serve": "answer over HTTP: genrec serve RUN",
    "store": "load lists into a top-K store, roll back, show: genrec store load STORE RUN/topk",
    "export": "the aligned recommender as an ONNX file: genrec export RUN FILE.onnx",
    "push": "upload a run to the Hugging Face hub, without its log: genrec push RUN USER/NAME",
    "chat": "talk to it: genrec chat RUN [--web] [--reader URL] [--prose URL]",
    "import": "raw Amazon or MovieLens files to the two tables: genrec import FORMAT ...",
}
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_OF_THE_DISK |= {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR}
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_HEAVY = COMMANDS.keys() - {"inspect", "store", "import"}  # what torch and others run


def _of_the_machine(error: Exception) -> str | None:
    """What the machine refuses, and not the program: a disk that is full or may not be written to, or no memory left.

    Libraries in Rust say so in words of their own, with the number of the system's error behind; a copy of a folder
    tells the errors of all its files.
    """
    told = " ".join(str(error).split())
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", told)):
        number = int(found[1] or found[2])
    if number in _OF_THE_DISK:
        place = getattr(error, "filename", None)
        return os.strerror(number) + (f": {place}" if place else "")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(told)):
        return f"not enough memory ({told[:200] or 'none is left'})"
    return None


def quiet_libraries() -> None:
    """No bars of other libraries, which also run where there is no terminal; before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] == "--version":
        sys.stdout.write(f"genrec {importlib.import_module('genrec').__version__}\n")
        return 0
    if not given or given[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        sys.stdout.write("usage: genrec COMMAND ...\n\n")
        sys.stdout.writelines(f"  {name:<{width}}  {what}\n" for name, what in COMMANDS.items())
        sys.stdout.write("\ngenrec COMMAND --help prints a command's options, genrec --version the version.\n")
        return 0 if given else 2
    name, rest = given[0], given[1:]
    if name not in COMMANDS:
        sys.stderr.write(f"genrec: no command {name!r}; there are {', '.join(COMMANDS)}\n")
        return 2
    if name in HELPS and set(rest) & {"-h", "--help"}:
        sys.stdout.write(HELPS[name])
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for room in ("semtok", "genrec", "training", "inference"):
        logging.getLogger(room).setLevel(logging.INFO)
    quiet_libraries()
    from genrec.semtok.installed import extra_of, lacks_extra, outside_tested_ranges  # not for --help and --version

    if name in _HEAVY and not set(rest) & {"-h", "--help"}:
        for line in outside_tested_ranges():
            logging.getLogger("genrec").warning(line)
    try:
        command = importlib.import_module("genrec.cli.commands")
        getattr(command, name.replace("-", "_").replace("import", "import_"))(rest)
    except InputError as error:
        sys.stderr.write(f"genrec {name}: {error}\n")
        return 2
    except ModuleNotFoundError as error:
        if (extra := extra_of(error.name or "", name)) is None:
            raise
        sys.stderr.write(f"genrec {name}: {lacks_extra(str(error.name), extra)}\n")
        return 2
    except Exception as error:
        if type(error).__name__ == "ShardError":  # by name: the batch job's module is heavy to import
            sys.stderr.write(f"genrec {name}: {error}; finished shards stay, the same command goes on\n")
            return 1
        if (told := _of_the_machine(error)) is None:
            raise
        sys.stderr.write(f"genrec {name}: {told}; what was finished stays, the same command goes on from it\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"genrec {name}: interrupted; the same command goes on from here\n")
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader of a pipe has left; that is no failure
    return 0


if __name__ == "__main__":
    sys.exit(main())
