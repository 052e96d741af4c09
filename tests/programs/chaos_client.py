"""A client in another language for `cargo xtask chaos`: puts, reads and compare-and-sets of a few keys through the Python package
etcd3, and a line of JSON for each call in the file that is the first argument.

Arguments: file, first number of its clients, how many, prefix, keys, seed, then the members' host:port. It stops when its input
ends. Times are of the monotonic clock, in nanoseconds: the clock of the program that reads the file.
"""

import json
import random
import sys
import threading
import time

import etcd3
from etcd3 import etcdrpc

path, first, count, prefix, keys, seed = sys.argv[1:7]
members = [argument.rsplit(":", 1) for argument in sys.argv[7:]]
stop = threading.Event()
lock = threading.Lock()
out = open(path, "w", buffering=1 << 16)


def connect(host, port):
    # A member that was away must be found again at once.
    options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
    return etcd3.client(host=host, port=int(port), timeout=2, grpc_options=options)


def seen(kvs):
    if not kvs:
        return None
    kv = kvs[0]
    return [kv.value.decode(), kv.create_revision, kv.mod_revision, kv.version]


def call(client, op, key, value, expected):
    """What came of it: (revision of a write, None), or (revision of a read, [what was seen])."""
    if op == "put":
        return client.put(key, value).header.revision, None
    if op in ("get", "stale"):
        answer = client.get_response(key, serializable=op == "stale")
        return answer.header.revision, [seen(answer.kvs)]
    # The package's own `transaction` keeps the revision of a write to itself.
    tx = client.transactions
    request = etcdrpc.TxnRequest(
        compare=[(tx.mod(key) == expected).build_message()],
        success=client._ops_to_requests([tx.put(key, value)]),
        failure=client._ops_to_requests([tx.get(key)]),
    )
    answer = client.kvstub.Txn(request, client.timeout, metadata=client.metadata)
    if answer.succeeded:
        return answer.header.revision, None
    return answer.header.revision, [seen(answer.responses[0].response_range.kvs)]


def work(number):
    rng = random.Random(f"{seed}/{number}")
    clients = [connect(host, port) for host, port in members]
    at, calls, last_seen = number % len(clients), 0, {}
    while not stop.is_set():
        calls += 1
        key = f"{prefix}/{rng.randrange(int(keys))}"
        op = rng.choice(["put", "put", "put", "cas", "cas", "get", "get", "get", "get", "stale"])
        value, expected = f"{number}-{calls}", last_seen.get(key, 0)
        line = {"op": op, "key": key, "value": value, "expected": expected, "start": time.monotonic_ns()}
        try:
            revision, read = call(clients[at], op, key, value, expected)
            line.update(revision=revision, read=read)
            last_seen[key] = revision if read is None else read[0][2] if read[0] else 0
        except Exception as error:
            line["error"] = str(error)[:200]
            at = (at + 1) % len(clients)
        line["end"] = time.monotonic_ns()
        with lock:
            out.write(json.dumps(line) + "\n")
        time.sleep(0.05 if "error" in line else 0.01)


threads = [threading.Thread(target=work, args=(int(first) + index,), daemon=True) for index in range(int(count))]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join(10)
with lock:
    out.close()
print("ok", flush=True)
