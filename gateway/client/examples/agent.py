import asyncio

from run_gateway import Run


async def main() -> None:
    async with Run("http://127.0.0.1:8080/runs/report-7", workflow="report") as run:
        for word in ("It", "is", "done."):
            await run.emit({"type": "token", "text": word})
        run.result = {"words": 3}


asyncio.run(main())
