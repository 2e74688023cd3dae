from typing import Any

from run_gateway import Run


async def record(graph: Any, question: object, run_id: str) -> None:
    async with Run(f"http://127.0.0.1:8080/runs/{run_id}", workflow="chat", input=question) as run:
        async for kind, part in graph.astream(question, stream_mode=["messages", "updates", "custom"]):
            await run.emit({"type": kind, "data": part})
