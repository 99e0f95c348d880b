"""A service over the run and its lists, asked over HTTP. In production: `genrec serve RUN`.

python examples/5_serve.py RUN                    # of examples/1_fit_and_recommend.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
PORT = sys.argv[2] if len(sys.argv) > 2 else "8765"
ADDRESS = f"http://127.0.0.1:{PORT}"


def ask(path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(ADDRESS + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        result: dict[str, object] = json.load(answer)
        return result


command = [sys.executable, "-m", "genrec.cli.main", "serve", str(run), "--port", PORT]
server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
try:
    while True:
        try:
            ask("/health/ready")
            break
        except OSError:
            if server.poll() is not None:
                sys.exit("the server ended; `genrec serve` says why")
            time.sleep(0.5)
    stored = ask("/v1/users/u00001/recommendations?k=3")
    print(stored["source"], stored["items"])
    live = ask("/v1/recommendations", {"history": ["10001"], "k": 3, "where": {"price": {"max": 20}}})
    print(live["source"], live["items"])
finally:
    server.terminate()
    server.wait()
