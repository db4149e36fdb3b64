// Keys, sessions, locks and transactions through the npm package `consul`, as its users use it.

const assert = require("node:assert");
const Consul = require("consul");

const consul = new Consul({ host: "127.0.0.1", port: Number(process.argv[2]) });

async function keys() {
  assert.strictEqual(await consul.kv.get("none"), undefined);
  assert.strictEqual(await consul.kv.set("hello", "world"), true);
  const found = await consul.kv.get("hello");
  assert.strictEqual(found.Value, "world");
  for (const name of ["CreateIndex", "ModifyIndex", "LockIndex", "Key", "Flags", "Value"]) {
    assert.ok(name in found, name);
  }
  assert.strictEqual(String(await consul.kv.get({ key: "hello", raw: true })), "world");
  // This version of the library gives `undefined` for an answer of `false`.
  assert.ok(!(await consul.kv.set({ key: "hello", value: "you", cas: "0" })));
  assert.strictEqual(await consul.kv.set({ key: "hello", value: "you", cas: found.ModifyIndex }), true);
  assert.strictEqual(await consul.kv.set({ key: "flags", value: "v", flags: 7 }), true);
  assert.strictEqual((await consul.kv.get("flags")).Flags, 7);
  await consul.kv.set("a/b", "1");
  await consul.kv.set("a/c/d", "2");
  assert.deepStrictEqual(await consul.kv.keys("a/"), ["a/b", "a/c/d"]);
  assert.deepStrictEqual(await consul.kv.keys({ key: "a/", separator: "/" }), ["a/b", "a/c/"]);
  const tree = await consul.kv.get({ key: "a/", recurse: true });
  assert.deepStrictEqual(tree.map((one) => [one.Key, one.Value]), [["a/b", "1"], ["a/c/d", "2"]]);
  assert.strictEqual(await consul.kv.del("hello"), true);
  assert.strictEqual(await consul.kv.del({ recurse: true }), true);
  assert.deepStrictEqual(await consul.kv.keys(), []);
}

// The library's own loop of blocking reads, which stops for good if an index makes no sense.
async function watch() {
  await consul.kv.set("watched", "1");
  const watched = consul.watch({ method: consul.kv.get, options: { key: "watched", wait: "60s" } });
  const seen = [];
  await new Promise((resolve, reject) => {
    watched.on("error", reject);
    watched.on("change", (data) => {
      seen.push(data.Value);
      if (seen.length < 3) consul.kv.set("watched", String(seen.length + 1)).catch(reject);
      else resolve();
    });
  });
  watched.end();
  assert.deepStrictEqual(seen, ["1", "2", "3"]);
}

async function sessions() {
  const { ID } = await consul.session.create({
    name: "mine",
    lockdelay: "15s",
    ttl: "10s",
    behavior: "delete",
    node: "a",
  });
  const info = await consul.session.get(ID);
  assert.strictEqual(info.ID, ID);
  assert.strictEqual(info.LockDelay, 15000000000);
  assert.strictEqual(info.TTL, "10s");
  for (const name of ["CreateIndex", "Name", "Node", "LockDelay", "Behavior", "NodeChecks"]) {
    assert.ok(name in info, name);
  }
  assert.deepStrictEqual((await consul.session.list()).map((one) => one.ID), [ID]);
  assert.deepStrictEqual((await consul.session.node("a")).map((one) => one.ID), [ID]);
  assert.strictEqual((await consul.session.renew(ID))[0].ID, ID);

  assert.strictEqual(await consul.kv.set({ key: "lock", value: "mine", acquire: ID }), true);
  assert.strictEqual((await consul.kv.get("lock")).Session, ID);
  const other = await consul.session.create({ lockdelay: "0s" });
  assert.ok(!(await consul.kv.set({ key: "lock", value: "yours", acquire: other.ID })));
  assert.strictEqual(await consul.kv.set({ key: "lock", value: "free", release: ID }), true);
  assert.strictEqual(await consul.kv.set({ key: "lock", value: "yours", acquire: other.ID }), true);
  await assert.rejects(consul.kv.set({ key: "lock", value: "x", acquire: "none" }), /invalid session "none"/);
  await consul.session.destroy(other.ID);
  assert.strictEqual((await consul.kv.get("lock")).Session, undefined);
  await consul.session.destroy(ID);
  assert.strictEqual(await consul.session.get(ID), undefined);
  await assert.rejects(consul.session.renew(ID), /not found/);
}

async function transactions() {
  const value = Buffer.from("world").toString("base64");
  const made = await consul.transaction.create([{ KV: { Verb: "set", Key: "hello", Value: value } }]);
  assert.strictEqual(made.Errors, null);
  assert.deepStrictEqual(
    Object.keys(made.Results[0].KV).filter((name) => name !== "Value").sort(),
    ["CreateIndex", "Flags", "Key", "LockIndex", "ModifyIndex"],
  );
  const read = await consul.transaction.create([{ KV: { Verb: "get", Key: "hello" } }]);
  assert.strictEqual(read.Results[0].KV.Value, value);
  await assert.rejects(
    consul.transaction.create([
      { KV: { Verb: "delete", Key: "hello" } },
      { KV: { Verb: "check-index", Key: "none", Index: 1 } },
    ]),
    (error) => error.statusCode === 409,
  );
  assert.strictEqual((await consul.kv.get("hello")).Value, "world");
}

(async () => {
  for (const scenario of [keys, watch, sessions, transactions]) {
    await scenario();
    console.log(scenario.name, "done");
  }
  console.log("all done");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
