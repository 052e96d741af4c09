"""What the Python package aetcd can do, with a user, on the members whose host:port are the arguments. The files are in the
environment: TLS_CA, TLS_CERT, TLS_KEY.

The package cannot speak TLS: the function by which it makes its channels is replaced by one that can.

Says `kill` when the test is to kill the leader, and goes on when it is told that this was done.
"""

import asyncio
import os
import sys

import aetcd
import aetcd.rpc
import grpc

members = [argument.rsplit(":", 1) for argument in sys.argv[1:]]


def read(variable):
    with open(os.environ[variable], "rb") as file:
        return file.read()


credentials = grpc.ssl_channel_credentials(read("TLS_CA"), read("TLS_KEY"), read("TLS_CERT"))
aetcd.rpc.insecure_channel = lambda target, options: grpc.aio.secure_channel(target, credentials, options=options)


def connect(member, username="root", password="secret", timeout=20):
    host, port = members[member]
    return aetcd.Client(host=host, port=int(port), username=username, password=password, timeout=timeout)


async def refused(what, error, text):
    try:
        result = await what
    except error as raised:
        assert text in str(raised), raised
        return
    raise AssertionError(f"got {result!r}, not {error}")


async def eventually(what, condition, seconds=30):
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            if await condition():
                return
        except aetcd.exceptions.ClientError:
            pass
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.1)


async def keys_and_ranges(first, last):
    await first.put(b"tour/a", b"1")
    found = await last.get(b"tour/a")
    assert (found.key, found.value, found.version, found.lease) == (b"tour/a", b"1", 1, 0)
    assert (await first.put(b"tour/a", b"2", prev_kv=True)).prev_kv.value == b"1"
    assert await last.get(b"tour/none") is None
    assert (await first.get(b"tour/a", serializable=True)).value is not None
    await first.put(b"tour/b", b"0")
    keys = lambda answer: [kv.key for kv in answer]
    assert keys(await last.get_prefix(b"tour/")) == [b"tour/a", b"tour/b"]
    assert keys(await last.get_prefix(b"tour/", sort_order="descend")) == [b"tour/b", b"tour/a"]
    assert keys(await last.get_prefix(b"tour/", sort_order="ascend", sort_target="value")) == [b"tour/b", b"tour/a"]
    assert [kv.value for kv in await last.get_prefix(b"tour/", keys_only=True)] == [b"", b""]
    assert keys(await last.get_range(b"tour/a", b"tour/b")) == [b"tour/a"]
    assert keys(await last.get_all()) == [b"tour/a", b"tour/b"]
    assert await first.replace(b"tour/b", b"0", b"x") and not await first.replace(b"tour/b", b"0", b"y")
    deleted = await first.delete(b"tour/b", prev_kv=True)
    assert deleted.prev_kv.value == b"x" and await first.delete(b"tour/b") is None
    assert (await last.delete_prefix(b"tour/")).deleted == 1
    await refused(first.put(b"", b"x"), aetcd.exceptions.ClientError, "key is not provided")


async def transactions(first, last):
    tx = first.transactions
    for expected in (True, False):
        done, answers = await first.transaction(
            compare=[tx.version(b"tour/t") == 0, tx.create(b"tour/t") == 0],
            success=[tx.put(b"tour/t", b"v"), tx.get(b"tour/t")],
            failure=[tx.get(b"tour/t")],
        )
        assert done == expected and answers[-1][0][0] == b"v", (done, answers)
    done, _ = await last.transaction(
        compare=[tx.value(b"tour/t") == b"v", tx.mod(b"tour/t") > 0], success=[tx.delete(b"tour/t")], failure=[])
    assert done and await first.get(b"tour/t") is None


async def leases(first, last):
    lease = await first.lease(60)
    await first.put(b"tour/leased", b"x", lease=lease)
    assert 0 < await lease.remaining_ttl() <= 60 and list(await lease.keys()) == [b"tour/leased"]
    assert (await lease.refresh()).TTL == 60
    assert (await last.get(b"tour/leased")).lease == lease.id
    await lease.revoke()
    assert await last.get(b"tour/leased") is None
    assert (await first.lease(10, 4712)).id == 4712
    await refused(last.lease(10, 4712), aetcd.exceptions.DuplicateLeaseError, "")
    await first.revoke_lease(4712)
    short = await last.lease(2)
    await last.put(b"tour/short", b"x", lease=short)

    async def gone():
        return await first.get(b"tour/short") is None

    await eventually("a lease ends", gone)


async def watches(first, last):
    watch = await last.watch_prefix(b"tour/w/", prev_kv=True)
    events = aiter(watch)
    await first.put(b"tour/w/a", b"1")
    await first.put(b"tour/w/a", b"2")
    await first.delete(b"tour/w/a")
    put, again, delete = [await asyncio.wait_for(anext(events), 20) for _ in range(3)]
    assert (put.kind, put.kv.key, put.kv.value) == (aetcd.rtypes.EventKind.PUT, b"tour/w/a", b"1")
    assert (again.kv.value, again.prev_kv.value) == (b"2", b"1")
    assert delete.kind == aetcd.rtypes.EventKind.DELETE and delete.prev_kv.value == b"2"
    await watch.cancel()
    past = await last.watch(b"tour/w/a", start_revision=put.kv.mod_revision)
    history = aiter(past)
    assert [(await asyncio.wait_for(anext(history), 20)).kv.mod_revision for _ in range(3)] \
        == [event.kv.mod_revision for event in (put, again, delete)]
    await past.cancel()
    once = asyncio.create_task(last.watch_once(b"tour/w/once", timeout=20))
    await asyncio.sleep(0.5)
    await first.put(b"tour/w/once", b"seen")
    assert (await once).kv.value == b"seen"
    await refused(last.watch_once(b"tour/w/once", timeout=1), aetcd.exceptions.WatchTimeoutError, "")


async def locks(first, last):
    lock, other = first.lock(b"tour", ttl=10), last.lock(b"tour", ttl=10)
    assert await lock.acquire() and await lock.is_acquired()
    assert not await other.acquire(timeout=1)
    waiting = asyncio.create_task(other.acquire(timeout=20))
    await asyncio.sleep(0.3)
    assert await lock.release()
    assert await waiting and await other.release()


async def maintenance(first):
    status = await first.status()
    assert status.version.startswith("3.") and status.db_size > 0
    assert len({member.name async for member in first.members()}) == len(members)
    await first.defragment()
    await first.compact((await first.put(b"tour/last", b"x")).header.revision)


async def permissions(first):
    async with connect(1, "app", "plain") as app:
        await app.put(b"app/mine", b"x")
        assert (await app.get(b"app/mine")).value == b"x"
        await refused(app.get(b"tour/a"), aetcd.exceptions.ClientError, "permission denied")
    await refused(connect(0, "app", "wrong").connect(), aetcd.exceptions.ClientError, "authentication failed")
    await first.delete(b"app/mine")


async def failover():
    """A client of each member: those of the survivors go on, and a lease and a key outlive the leader."""
    clients = [connect(member, timeout=3) for member in range(len(members))]
    await clients[0].put(b"tour/leased", b"x", lease=await clients[0].lease(30))
    for client in clients:
        assert (await client.get(b"tour/leased")).value == b"x"
    print("kill", flush=True)
    killed = int(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))
    for member, client in enumerate(clients):
        if member == killed:
            continue

        async def written():
            await client.put(b"tour/after", b"y")
            return True

        await eventually("a write after the leader's death", written)
        assert (await client.get(b"tour/leased")).value == b"x"


async def main():
    async with connect(0) as first, connect(len(members) - 1) as last:
        await keys_and_ranges(first, last)
        await transactions(first, last)
        await leases(first, last)
        await watches(first, last)
        await locks(first, last)
        await maintenance(first)
        await permissions(first)
        await first.delete_prefix(b"tour/")
    await failover()
    print("ok", flush=True)
    # A client of a dead member may wait for it when it is closed.
    os._exit(0)


asyncio.run(main())
