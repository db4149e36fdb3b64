"""Keys, sessions, locks and transactions through py-consul, as its users use them."""

import base64
import sys
import threading

import consul
from consul.exceptions import BadRequest, ClientError, ConsulException, NotFound

c = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]))


def raises(error, call):
    try:
        call()
    except error as raised:
        return str(raised)
    raise AssertionError(f"{error} was not raised")


def keys():
    index, missing = c.kv.get("foo")
    assert missing is None and int(index) >= 1
    assert c.kv.put("foo", "bar") is True
    index, found = c.kv.get("foo")
    assert found["Value"] == b"bar" and found["Flags"] == 0, found
    assert c.kv.put("foo", None) is True
    assert c.kv.get("foo")[1]["Value"] is None
    assert c.kv.put("foo", b"\x00\xff\xfe", flags=50) is True
    _, found = c.kv.get("foo")
    assert found["Value"] == b"\x00\xff\xfe" and found["Flags"] == 50

    # A reader that waits for a key to come.
    index, missing = c.kv.get("later")
    seen = []
    waits = threading.Thread(target=lambda: seen.append(c.kv.get("later", index=index, wait="60s")))
    waits.start()
    assert c.kv.put("later", "now")
    waits.join()
    assert seen[0][1]["Value"] == b"now" and int(seen[0][0]) > int(index), seen

    assert c.kv.put("foo", "x", cas=0) is False
    assert c.kv.put("foo", "x", cas=found["ModifyIndex"]) is True
    assert c.kv.delete("foo", cas=1) is False
    assert c.kv.delete("foo") is True
    assert c.kv.get("foo")[1] is None

    for key in ["base/a", "base/b/c", "base/b/d"]:
        assert c.kv.put(key, key)
    assert [one["Key"] for one in c.kv.get("base/", recurse=True)[1]] == ["base/a", "base/b/c", "base/b/d"]
    assert c.kv.get("base/", keys=True)[1] == ["base/a", "base/b/c", "base/b/d"]
    assert c.kv.get("base/", keys=True, separator="/")[1] == ["base/a", "base/b/"]
    assert c.kv.delete("base/", recurse=True) is True
    assert c.kv.get("base/", recurse=True)[1] is None
    for consistency in ["default", "consistent", "stale"]:
        assert c.kv.get("later", consistency=consistency)[1]["Value"] == b"now"
    raises(ConsulException, lambda: c.kv.get("later", dc="dc2"))


def sessions():
    assert c.session.list()[1] == []
    session = c.session.create(name="mine", lock_delay=20, behavior="delete", ttl=10)
    index, info = c.session.info(session)
    assert info["ID"] == session and info["Name"] == "mine" and info["Node"] == "a", info
    assert info["LockDelay"] == 20_000_000_000 and info["TTL"] == "10s" and info["Behavior"] == "delete"
    assert info["NodeChecks"] == ["serfHealth"]
    assert [one["ID"] for one in c.session.list()[1]] == [session]
    assert [one["ID"] for one in c.session.node("a")[1]] == [session]
    assert c.session.renew(session)["ID"] == session
    raises(ConsulException, lambda: c.session.create(node="nobody"))
    raises(ConsulException, lambda: c.session.create(dc="dc2"))
    raises(ConsulException, lambda: c.session.list(dc="dc2"))
    raises(ConsulException, lambda: c.session.info(session, dc="dc2"))
    raises(ConsulException, lambda: c.session.node("a", dc="dc2"))
    raises(ConsulException, lambda: c.session.destroy(session, dc="dc2"))

    # A reader that waits for the session to end.
    seen = []
    waits = threading.Thread(target=lambda: seen.append(c.session.info(session, index=index, wait="60s")))
    waits.start()
    assert c.session.destroy(session) is True
    waits.join()
    assert seen[0][1] is None, seen
    assert c.session.list()[1] == []
    assert "not found" in raises(NotFound, lambda: c.session.renew(session))


def locks():
    first = c.session.create(behavior="delete", lock_delay=0)
    second = c.session.create(behavior="release", lock_delay=0)
    assert c.kv.put("lock", "1", acquire=first) is True
    assert c.kv.put("lock", "2", acquire=second) is False
    assert c.kv.get("lock")[1]["Session"] == first
    assert c.kv.put("lock", "2", release=second) is False
    assert c.kv.put("lock", "2", release="unknown") is False
    assert 'invalid session "unknown"' in raises(
        ConsulException, lambda: c.kv.put("lock", "3", acquire="unknown")
    )
    raises(BadRequest, lambda: c.kv.put("lock", "3", acquire=first, release=first))
    assert c.session.destroy(first)
    assert c.kv.get("lock")[1] is None
    assert c.kv.put("lock", "2", acquire=second) is True
    assert c.session.destroy(second)
    _, found = c.kv.get("lock")
    assert found["Value"] == b"2" and "Session" not in found, found
    # The delay keeps the next one out.
    slow = c.session.create()
    eager = c.session.create()
    assert c.kv.put("slow", "1", acquire=slow) is True
    assert c.session.destroy(slow)
    assert c.kv.put("slow", "2", acquire=eager) is False
    assert c.session.destroy(eager)


def transactions():
    encoded = base64.b64encode(b"1").decode()
    done = c.txn.put([{"KV": {"Verb": "set", "Key": "asdf", "Value": encoded}}])
    assert done["Errors"] is None
    result = done["Results"][0]["KV"]
    assert result["Key"] == "asdf" and result["Value"] is None, result
    done = c.txn.put([{"KV": {"Verb": "get", "Key": "asdf"}}])
    assert done["Results"][0]["KV"]["Value"] == encoded
    refused = raises(
        ClientError,
        lambda: c.txn.put(
            [
                {"KV": {"Verb": "set", "Key": "new", "Value": encoded}},
                {"KV": {"Verb": "cas", "Key": "asdf", "Value": encoded, "Index": 1}},
            ]
        ),
    )
    assert 'failed to set key \\"asdf\\", index is stale' in refused, refused
    assert c.kv.get("new")[1] is None


for scenario in [keys, sessions, locks, transactions]:
    scenario()
    print(scenario.__name__, "done")
print("all done")
