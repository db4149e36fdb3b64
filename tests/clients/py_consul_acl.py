"""Tokens, policies and roles through py-consul, as its users use them. Rights are on; nothing is allowed over rights by default."""

import sys

import consul
from consul.exceptions import ACLPermissionDenied, ConsulException

ROOT = sys.argv[2]
ANONYMOUS = "00000000-0000-0000-0000-000000000002"
MANAGEMENT = "00000000-0000-0000-0000-000000000001"

c = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]))


def raises(error, call):
    try:
        call()
    except error as raised:
        return str(raised)
    raise AssertionError(f"{error} was not raised")


def refusals():
    for token in [None, "anonymous"]:
        tokens = c.acl.token
        for call in [
            lambda: tokens.list(token=token),
            lambda: tokens.create(token=token),
            lambda: tokens.update(accessor_id=ANONYMOUS, token=token),
            lambda: tokens.clone(accessor_id=ANONYMOUS, token=token),
            lambda: tokens.read(accessor_id=ANONYMOUS, token=token),
            lambda: tokens.delete(accessor_id=ANONYMOUS, token=token),
            lambda: c.acl.role.list(token=token),
            lambda: c.acl.role.create(name="r", token=token),
            lambda: c.acl.policy.list(token=token),
        ]:
            raises(ACLPermissionDenied, call)
    assert "no longer allowed" in raises(ACLPermissionDenied, c.acl.bootstrap)
    raises(ConsulException, lambda: c.acl.login(auth_method="none", bearer_token="x"))
    raises(ConsulException, lambda: c.acl.logout(token="00000000-0000-0000-0000-0000000000ff"))


def tokens():
    found = {one["AccessorID"]: one for one in c.acl.token.list(token=ROOT)}
    assert found[ANONYMOUS]["SecretID"] == "anonymous"
    [root] = [one for one in found.values() if one["SecretID"] == ROOT]
    assert root["Description"] == "Initial Management Token"
    assert root["Policies"] == [{"ID": MANAGEMENT, "Name": "global-management"}]
    assert c.acl.token.read_self(token=ROOT)["AccessorID"] == root["AccessorID"]

    accessor, secret = "00000000-DEAD-BEEF-0000-000000000000", "DEADBEEF-0000-0000-0000-000000000000"
    made = c.acl.token.create(
        accessor_id=accessor, secret_id=secret, description="first", node_identities=["n1:dc1"], token=ROOT
    )
    assert (made["AccessorID"], made["SecretID"]) == (accessor, secret), made
    raises(ConsulException, lambda: c.acl.token.create(accessor_id=accessor, token=ROOT))
    c.acl.token.update(accessor_id=accessor, description="second", node_identities=["n2:dc2"], token=ROOT)
    read = c.acl.token.read(accessor_id=accessor, token=ROOT)
    assert read["Description"] == "second", read
    assert read["NodeIdentities"] == [{"NodeName": "n2", "Datacenter": "dc2"}], read
    cloned = c.acl.token.clone(accessor_id=accessor, description="cloned", token=ROOT)
    assert cloned["Description"] == "cloned" and cloned["SecretID"] != secret, cloned
    assert len(c.acl.token.list(token=ROOT)) == 4
    for call in [c.acl.token.read, c.acl.token.clone, c.acl.token.update]:
        raises(ConsulException, lambda: call(accessor_id="unknown", token=ROOT))
    assert c.acl.token.delete(accessor_id=accessor, token=ROOT) is True
    raises(ConsulException, lambda: c.acl.token.read(accessor_id=accessor, token=ROOT))


def policies():
    rules = {"key_prefix": {"app/": {"policy": "write"}}, "key": {"app/sealed": {"policy": "deny"}}}
    made = c.acl.policy.create(name="app", description="the app's", rules=rules, token=ROOT)
    read = c.acl.policy.read(uuid=made["ID"], token=ROOT)
    assert read["Name"] == "app" and "app/sealed" in read["Rules"], read
    assert {one["Name"] for one in c.acl.policy.list(token=ROOT)} == {"app", "global-management"}
    assert c.acl.policy.read(uuid="unknown", token=ROOT) is None
    assert c.acl.policy.read(uuid=MANAGEMENT, token=ROOT)["Name"] == "global-management"

    token = c.acl.token.create(policies_name=["app"], token=ROOT)
    app = consul.Consul(host="127.0.0.1", port=int(sys.argv[1]), token=token["SecretID"])
    assert app.kv.put("app/x", "1") is True
    assert app.kv.get("app/x")[1]["Value"] == b"1"
    raises(ACLPermissionDenied, lambda: app.kv.get("app/sealed"))
    raises(ACLPermissionDenied, lambda: app.kv.put("app/sealed", "1"))


def roles():
    made = c.acl.role.create(
        name="web",
        description="first",
        service_identities=[{"ServiceName": "web"}],
        node_identities=[{"NodeName": "n1", "Datacenter": "dc1"}],
        token=ROOT,
    )
    assert made["ServiceIdentities"] == [{"ServiceName": "web"}], made
    assert c.acl.role.read(role_id=made["ID"], token=ROOT)["Name"] == "web"
    assert c.acl.role.read_by_name(name="web", token=ROOT)["ID"] == made["ID"]
    assert made["ID"] in {one["ID"] for one in c.acl.role.list(token=ROOT)}
    changed = c.acl.role.update(role_id=made["ID"], name="web", description="second", token=ROOT)
    assert changed["Description"] == "second", changed
    assert c.acl.role.delete(role_id=made["ID"], token=ROOT) is True
    assert c.acl.role.read(role_id=made["ID"], token=ROOT) is None


for scenario in [refusals, tokens, policies, roles]:
    scenario()
    print(scenario.__name__, "done")
print("all done")
