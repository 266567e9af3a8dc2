"""The script that people write: aiohttp, a semaphore, a line of output for each answer. Keeps nothing in a crash.

    script.py BASE_URL INPUT OUTPUT SLOTS
"""

import asyncio
import json
import sys
import time

import aiohttp


async def main(base, source, target, slots):
    permits = asyncio.Semaphore(slots)
    connector = aiohttp.TCPConnector(limit=slots)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        with open(source, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as out:

            async def answer(request):
                async with permits:
                    async with session.post(base + request["url"], json=request["body"]) as response:
                        body = await response.json()
                result = {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}}
                out.write(json.dumps(result) + "\n")

            requests = [json.loads(line) for line in lines]
            await asyncio.gather(*(answer(request) for request in requests))
    return len(requests)


started = time.monotonic()
count = asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
wall, cpu = time.monotonic() - started, time.process_time()
print(json.dumps({"requests": count, "seconds": wall, "cpu_ticks": round(cpu * 100)}))
