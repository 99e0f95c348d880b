#!/bin/sh
# From the day's users to lists in the store. Every step leaves what was there before where it fails, and then this stops.
set -eu
GENREC=/opt/genrec/.venv/bin RUN=/srv/genrec/run STORE=/srv/genrec/store USERS=/srv/genrec/users.jsonl

# Events up to now are in the export, and so in the lists; later ones keep a user's list stale.
AS_OF=$(date +%s)
/opt/genrec/export-users "$USERS"  # yours: a line a user, {"user_id": ..., "history": [item ids, oldest first]}

"$GENREC/genrec" recommend "$RUN" --users "$USERS" --restart true
"$GENREC/genrec" store load "$STORE" "$RUN/topk" --users "$USERS" --as_of "$AS_OF"
