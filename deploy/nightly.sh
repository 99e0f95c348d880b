#!/bin/sh
# From the day's log to lists in the store. Every step leaves what was there before where it fails, and then this stops.
set -eu
GENREC=/opt/genrec/.venv/bin RUN=/srv/genrec/run STORE=/srv/genrec/store LOG=/srv/genrec/interactions.csv

# Events up to now are in the export, and so in the lists; later ones keep a user's list stale.
AS_OF=$(date +%s)
/opt/genrec/export-interactions "$LOG"  # yours

"$GENREC/genrec" recommend "$RUN" --interactions "$LOG" --out "$RUN/topk" --restart
"$GENREC/python" -m inference.store_tool load "$STORE" "$RUN/topk" --interactions "$LOG" --as-of "$AS_OF"
