"""What the Python package etcd3 can do, with TLS, a client certificate and a user, on the members whose host:port are the
arguments. The files are in the environment: TLS_CA, TLS_CERT, TLS_KEY.

Says `kill` when the test is to kill the leader, and goes on when it is told that this was done.
"""

import io
import os
import sys
import threading
import time

import etcd3
import etcd3.events
import grpc

members = [argument.rsplit(":", 1) for argument in sys.argv[1:]]


def connect(member, user="root", password="secret", timeout=20):
    host, port = members[member]
    files = {name: os.environ[f"TLS_{variable}"] for name, variable in
             (("ca_cert", "CA"), ("cert_cert", "CERT"), ("cert_key", "KEY"))}
    return etcd3.client(host=host, port=int(port), user=user, password=password, timeout=timeout, **files)


def raises(error, what, *args, **kwargs):
    try:
        result = what(*args, **kwargs)
    except error as raised:
        return raised
    raise AssertionError(f"{what} gave {result!r}, not {error}")


def wait_for(what, condition, seconds=30):
    deadline = time.time() + seconds
    while True:
        try:
            if condition():
                return
        except etcd3.exceptions.Etcd3Exception:
            pass
        assert time.time() < deadline, what
        time.sleep(0.1)


def keys_and_ranges(first, last):
    first.put("tour/a", "1")
    value, meta = last.get("tour/a")
    assert (value, meta.key, meta.version) == (b"1", b"tour/a", 1)
    assert first.put("tour/a", "2", prev_kv=True).prev_kv.value == b"1"
    assert last.get("tour/none") == (None, None)
    assert first.get("tour/a", serializable=True)[0] is not None
    first.put("tour/b", "0")
    keys = lambda answer: [meta.key for _, meta in answer]
    assert keys(last.get_prefix("tour/")) == [b"tour/a", b"tour/b"]
    assert keys(last.get_prefix("tour/", sort_order="descend")) == [b"tour/b", b"tour/a"]
    assert keys(last.get_prefix("tour/", sort_order="ascend", sort_target="value")) == [b"tour/b", b"tour/a"]
    assert [value for value, _ in last.get_prefix("tour/", keys_only=True)] == [b"", b""]
    assert keys(last.get_range("tour/a", "tour/b")) == [b"tour/a"]
    assert keys(last.get_all()) == [b"tour/a", b"tour/b"]
    assert first.get_all_response().count == 2
    assert first.put_if_not_exists("tour/c", "x") and not last.put_if_not_exists("tour/c", "y")
    assert first.replace("tour/c", "x", "z") and not first.replace("tour/c", "x", "w")
    assert first.delete("tour/c") and not first.delete("tour/c")
    assert first.delete("tour/b", prev_kv=True, return_response=True).prev_kvs[0].value == b"0"
    assert last.delete_prefix("tour/").deleted == 1
    # The package has no class for this error and passes on gRPC's.
    assert "key is not provided" in raises(grpc.RpcError, first.put, "", "x").details()


def transactions(first, last):
    tx = first.transactions
    for expected in (True, False):
        done, answers = first.transaction(
            compare=[tx.version("tour/t") == 0, tx.create("tour/t") == 0],
            success=[tx.put("tour/t", "v"), tx.get("tour/t")],
            failure=[tx.get("tour/t")],
        )
        assert done == expected and answers[-1][0][0] == b"v", (done, answers)
    # A transaction in a transaction.
    inner = tx.txn(compare=[tx.value("tour/t") == "v"], success=[tx.delete("tour/t")], failure=[])
    done, _ = last.transaction(compare=[tx.mod("tour/t") > 0], success=[inner], failure=[])
    assert done and first.get("tour/t") == (None, None)


def leases(first, last):
    lease = first.lease(60)
    first.put("tour/leased", "x", lease=lease)
    assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60 and list(lease.keys) == [b"tour/leased"]
    assert [answer.TTL for answer in lease.refresh()] == [60]
    assert last.get("tour/leased")[1].lease_id == lease.id
    lease.revoke()
    assert last.get("tour/leased") == (None, None)
    assert first.get_lease_info(lease.id).TTL == -1
    assert first.lease(10, lease_id=4711).id == 4711
    first.revoke_lease(4711)
    short = last.lease(2)
    last.put("tour/short", "x", lease=short)
    wait_for("a lease ends", lambda: first.get("tour/short") == (None, None))


def watches(first, last):
    events, cancel = last.watch_prefix("tour/w/", prev_kv=True)
    first.put("tour/w/a", "1")
    first.put("tour/w/a", "2")
    first.delete("tour/w/a")
    put, again, delete = (next(events) for _ in range(3))
    assert isinstance(put, etcd3.events.PutEvent) and (put.key, put.value) == (b"tour/w/a", b"1")
    assert (again.value, again.prev_value) == (b"2", b"1")
    assert isinstance(delete, etcd3.events.DeleteEvent) and delete.prev_value == b"2"
    cancel()
    # From the past.
    history, cancel = last.watch("tour/w/a", start_revision=put.mod_revision)
    assert [next(history).value for _ in range(2)] == [b"1", b"2"]
    cancel()
    writer = threading.Timer(0.5, lambda: first.put("tour/w/once", "seen"))
    writer.start()
    assert last.watch_once("tour/w/once", timeout=20).value == b"seen"
    writer.join()
    raises(etcd3.exceptions.WatchTimedOut, last.watch_once, "tour/w/once", timeout=1)
    seen = []
    watch_id = last.add_watch_callback("tour/w/cb", lambda answer: seen.extend(answer.events))
    first.put("tour/w/cb", "x")
    wait_for("a callback", lambda: len(seen) == 1)
    last.cancel_watch(watch_id)
    # Behind the compaction, of which the other member knows once it has answered a read.
    first.compact(first.get_response("tour/w/a").header.revision)
    last.get("tour/w/a")
    told = []
    last.add_watch_callback("tour/w/a", told.append, start_revision=1)
    wait_for("the compacted revision", lambda: len(told) == 1)
    assert isinstance(told[0], etcd3.exceptions.RevisionCompactedError) and told[0].compacted_revision > 1, told


def locks(first, last):
    # Its wait for a lock that is held needs a tenacity that no Python of today runs: only what does not wait.
    lock = first.lock("tour", ttl=10)
    with lock:
        assert lock.is_acquired() and last.get(lock.key)[0] == lock.uuid
    assert not lock.is_acquired()
    other = last.lock("tour", ttl=10)
    assert other.acquire() and not lock.is_acquired() and other.release()


def maintenance(first):
    status = first.status()
    assert status.version.startswith("3.") and status.leader is not None and status.db_size > 0
    assert len(list(first.members)) == len(members)
    assert all(member.name and member.client_urls for member in first.members)
    first.defragment()
    assert list(first.list_alarms()) == []
    # For this one the package forgets the token, as for no other call.
    raises(grpc.RpcError, first.hash)
    file = io.BytesIO()
    first.snapshot(file)
    assert len(file.getvalue()) > 0


def permissions(first):
    app = connect(1, "app", "plain")
    app.put("app/mine", "x")
    assert app.get("app/mine")[0] == b"x"
    error = raises(etcd3.exceptions.PermissionDeniedError if hasattr(etcd3.exceptions, "PermissionDeniedError")
                   else Exception, app.get, "tour/a")
    assert "permission denied" in str(error), error
    error = raises(Exception, connect, 0, "app", "wrong")
    assert "authentication failed, invalid user ID or password" in str(error), error
    first.delete("app/mine")


def failover():
    """A client of each member: those of the survivors go on, and a lease and a key outlive the leader."""
    clients = [connect(member, timeout=3) for member in range(len(members))]
    clients[0].put("tour/leased", "x", lease=clients[0].lease(30))
    print("kill", flush=True)
    killed = int(sys.stdin.readline())
    alive = [client for member, client in enumerate(clients) if member != killed]
    for client in alive:
        wait_for("a write after the leader's death", lambda: client.put("tour/after", "y") is not None)
        assert client.get("tour/leased")[0] == b"x"
    assert alive[1].delete_prefix("tour/").deleted == 2


one, three = connect(0), connect(len(members) - 1)
keys_and_ranges(one, three)
transactions(one, three)
leases(one, three)
watches(one, three)
locks(one, three)
maintenance(one)
permissions(one)
one.delete_prefix("tour/")
failover()
print("ok", flush=True)
# The package's watcher threads do not end by themselves.
os._exit(0)
