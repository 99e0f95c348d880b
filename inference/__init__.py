"""Using a run: loading it, the batch job, engines beside torch, the top-K store, the server and the chat."""
