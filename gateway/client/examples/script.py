from run_gateway import Run, sync

with Run("http://127.0.0.1:8080", workflow="import", metadata={"user": "u1"}) as run:
    for line in ("one", "two"):
        run.emit({"type": "line", "text": line})
    run.result = 2

print(sync.get_run(run.url).status, sync.get_run(run.url).result)
