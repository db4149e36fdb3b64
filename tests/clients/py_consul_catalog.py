"""Nodes, services, checks and health through py-consul, as its users use them."""

import sys
import time

import consul
from consul import Check
from consul.exceptions import BadRequest, ConsulException, NotFound

c = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]))


def raises(error, call):
    try:
        call()
    except error as raised:
        return str(raised)
    raise AssertionError(f"{error} was not raised")


def eventually(what, holds):
    """Waits for what the agent tells the catalog a moment later."""
    last = None
    for _ in range(200):
        last = holds()
        if last:
            return last
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come about: {last}")


def own_node():
    """The agent's node is there by itself, alive, with the service that servers are."""
    name = c.agent.self()["Config"]["NodeName"]
    health = eventually("serfHealth", lambda: c.health.node(name)[1])
    assert [(one["CheckID"], one["Status"]) for one in health] == [("serfHealth", "passing")], health
    assert health[0]["Output"] == "Agent alive and reachable", health
    _, services = c.catalog.services()
    assert services == {"consul": []}, services
    _, nodes = c.catalog.nodes()
    assert [node["Node"] for node in nodes] == [name], nodes
    eventually("addresses", lambda: c.catalog.nodes()[1][0]["TaggedAddresses"])
    _, node = c.catalog.node(name)
    assert node["Services"]["consul"]["Port"] > 0, node
    assert c.catalog.node("nobody")[1] is None
    assert c.catalog.datacenters() == ["dc1"]


def external_nodes():
    assert c.catalog.register("n1", "10.1.10.11") is True
    assert c.catalog.register("n2", "10.1.10.12", service={"service": "s1", "id": "s1:1", "tags": ["master"]}) is True
    assert c.catalog.register("n1", "10.1.10.11", service={"service": "s1", "id": "s1:2", "tags": ["slave"]}) is True
    index, nodes = c.catalog.service("s1")
    assert sorted(node["Node"] for node in nodes) == ["n1", "n2"], nodes
    _, nodes = c.catalog.service("s1", tag="master")
    assert [node["Node"] for node in nodes] == ["n2"], nodes
    assert sorted(c.catalog.services()[1]["s1"]) == ["master", "slave"]
    assert set(c.catalog.node("n1")[1]["Services"]) == {"s1:2"}
    assert c.catalog.deregister("n2", service_id="s1:1") is True
    again, nodes = c.catalog.service("s1", index=index)
    assert int(again) > int(index) and [node["Node"] for node in nodes] == ["n1"], nodes
    assert c.catalog.deregister("n1") is True
    assert c.catalog.deregister("n2") is True
    assert c.catalog.service("s1")[1] == []
    raises(ConsulException, lambda: c.catalog.register("n1", "10.1.10.11", dc="dc2"))


def own_services():
    assert c.agent.service.register("foo", service_id="foo:1", port=10, tags=["a", "b"], address="10.10.10.1") is True
    assert c.agent.service.register("foo", service_id="foo:2", port=20, check=Check.ttl("10s")) is True
    services = c.agent.services()
    assert set(services) == {"foo:1", "foo:2"} and services["foo:1"]["Port"] == 10, services
    assert services["foo:1"]["Tags"] == ["a", "b"] and services["foo:1"]["Service"] == "foo"
    assert set(c.agent.checks()) == {"service:foo:2"}

    eventually("both in the catalog", lambda: len(c.catalog.service("foo")[1]) == 2)
    _, nodes = c.health.service("foo")
    assert [node["Service"]["ID"] for node in nodes] == ["foo:1", "foo:2"], nodes
    eventually("one passes", lambda: [n["Service"]["ID"] for n in c.health.service("foo", passing=True)[1]] == ["foo:1"])
    assert c.agent.check.ttl_pass("service:foo:2") is True
    eventually("both pass", lambda: len(c.health.service("foo", passing=True)[1]) == 2)
    assert c.agent.check.ttl_fail("service:foo:2", notes="broken") is True
    critical = eventually("one is critical", lambda: c.health.state("critical")[1])
    assert [(check["CheckID"], check["Output"], check["ServiceName"]) for check in critical] == [
        ("service:foo:2", "broken", "foo")
    ], critical
    assert len(c.health.service("foo", tag="a")[1]) == 1
    assert [check["CheckID"] for check in c.health.checks("foo")[1]] == ["service:foo:2"]

    # Whoever takes it out of the catalog behind the agent's back sees it come again.
    assert c.agent.service.deregister("foo:1") is True
    assert c.agent.service.deregister("foo:2") is True
    assert c.agent.services() == {}
    eventually("nothing in the catalog", lambda: c.catalog.service("foo")[1] == [])
    assert c.agent.service.deregister("foo:1") is False


def checks():
    assert c.agent.check.register("ttl", Check.ttl("100ms"), check_id="ttl") is True
    assert c.agent.checks()["ttl"]["Status"] == "critical"
    assert c.agent.check.ttl_pass("ttl") is True
    assert c.agent.checks()["ttl"]["Status"] == "passing"
    eventually("its time is over", lambda: c.agent.checks()["ttl"]["Status"] == "critical")
    assert "TTL expired" in c.agent.checks()["ttl"]["Output"]
    assert c.agent.check.ttl_warn("ttl", notes="careful") is True
    assert (c.agent.checks()["ttl"]["Status"], c.agent.checks()["ttl"]["Output"]) == ("warning", "careful")
    assert c.agent.check.deregister("ttl") is True
    assert c.agent.checks() == {}

    # The agent looks at itself by HTTP, and at a port that nobody listens on.
    port = sys.argv[1]
    assert c.agent.check.register("self", Check.http(f"http://127.0.0.1:{port}/v1/status/leader", "1s")) is True
    assert c.agent.check.register("port", Check.tcp("127.0.0.1", 1, "1s")) is True
    eventually("the agent answers", lambda: c.agent.checks()["self"]["Status"] == "passing")
    eventually("nobody listens", lambda: "refused" in c.agent.checks()["port"]["Output"])
    assert c.agent.checks()["port"]["Status"] == "critical"
    for name in ["self", "port"]:
        assert c.agent.check.deregister(name) is True

    assert c.agent.check.register("bad", Check.ttl("1s"), service_id="nobody") is False
    refused = raises(ConsulException, lambda: c.agent.check.register("script", Check.script(["true"], "1s")))
    assert "Scripts are disabled" in refused, refused
    assert c.agent.check.ttl_pass("nobody") is False


def maintenance():
    assert c.agent.service.register("web", check=Check.ttl("10s")) is True
    assert c.agent.check.ttl_pass("service:web") is True
    assert c.agent.service.maintenance("web", "true", "upgrade") is True
    kept = c.agent.checks()["_service_maintenance:web"]
    assert (kept["Status"], kept["Notes"], kept["ServiceID"]) == ("critical", "upgrade", "web"), kept
    assert c.agent.service.maintenance("web", "false") is True
    assert c.agent.maintenance("true", "reboot") is True
    assert c.agent.checks()["_node_maintenance"]["Notes"] == "reboot"
    eventually("nothing passes", lambda: c.health.service("web", passing=True)[1] == [])
    assert c.agent.maintenance("false") is True
    eventually("it passes again", lambda: len(c.health.service("web", passing=True)[1]) == 1)
    raises(BadRequest, lambda: c.agent.maintenance("maybe"))
    assert c.agent.service.deregister("web") is True


def sessions_and_checks():
    """A session lives no longer than the checks it names."""
    assert c.agent.service.register("db", check=Check.ttl("60s")) is True
    assert c.agent.check.ttl_pass("service:db") is True
    name = c.agent.self()["Config"]["NodeName"]
    eventually("the check passes", lambda: [one for one in c.health.node(name)[1] if one["CheckID"] == "service:db" and one["Status"] == "passing"])
    session = c.session.create(checks=["serfHealth", "service:db"], lock_delay=0)
    assert c.kv.put("lock", "mine", acquire=session) is True
    assert c.agent.check.ttl_fail("service:db") is True
    eventually("the session is gone", lambda: c.session.info(session)[1] is None)
    assert "Session" not in c.kv.get("lock")[1]
    refused = raises(ConsulException, lambda: c.session.create(checks=["service:db"]))
    assert "critical" in refused, refused
    raises(ConsulException, lambda: c.session.create(node="nobody"))
    assert c.agent.service.deregister("db") is True


for scenario in [own_node, external_nodes, own_services, checks, maintenance, sessions_and_checks]:
    scenario()
    print(scenario.__name__, "done")
print("all done")
