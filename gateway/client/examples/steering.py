import asyncio

from run_gateway import cancel, follow, get_run, list_runs, wait


async def main(gateway: str) -> None:
    async for run in list_runs(gateway, status="active", workflow="import"):
        url = f"{gateway}/runs/{run.id}"
        reader = follow(url)
        async for event in reader:
            if event == "enough":
                await cancel(url, "enough of it")
                break
        async for event in follow(url, offset=reader.offset):
            print("after that:", event)
        assert (await wait(url)).status == (await get_run(url)).status == "cancelled"


asyncio.run(main("http://127.0.0.1:8080"))
