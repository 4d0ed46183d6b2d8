# expect: OK
# stdout: "[3, 2, 1]\n"
# why: an event loop needs epoll and a socket pair
import asyncio
async def main():
    out = []
    async def one(n):
        await asyncio.sleep(0.02 * (3 - n))
        out.append(n)
    await asyncio.gather(one(1), one(2), one(3))
    print(out)
asyncio.run(main())
