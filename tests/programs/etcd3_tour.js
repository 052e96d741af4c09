// What the npm package etcd3 can do, with TLS, a client certificate and a user, on the members whose URLs are the
// arguments. Its files are in the environment: TLS_CA, TLS_CERT, TLS_KEY; its package in NODE_PATH.
//
// Says `kill` when the test is to kill the leader, and goes on when it is told that this was done.

'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const readline = require('node:readline');
const { once } = require('node:events');
const etcd3 = require('etcd3');
const { Etcd3, Range, STMConflictError } = etcd3;

// A `const enum` of its TypeScript, so not there at run time.
const Isolation = { SerializableSnapshot: 0, Serializable: 1, RepeatableReads: 2, ReadCommitted: 3 };

const hosts = process.argv.slice(2);
const file = (name) => fs.readFileSync(process.env[name]);
const credentials = {
  rootCertificate: file('TLS_CA'), certChain: file('TLS_CERT'), privateKey: file('TLS_KEY'),
};
const deadline = (context) => (context.isStream ? {} : { deadline: Date.now() + 20000 });
const connect = (username, password, to = hosts) =>
  new Etcd3({ hosts: to, credentials, auth: { username, password }, defaultCallOptions: deadline });
const root = connect('root', 'secret');
const app = connect('app', 'plain');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function within(what, promise, ms = 20000) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`too late: ${what}`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function eventually(what, condition) {
  for (const until = Date.now() + 20000; !(await condition().catch(() => false)); await sleep(100)) {
    assert(Date.now() < until, `never: ${what}`);
  }
}

async function keysAndRanges(kv) {
  await kv.put('kv/a').value('1');
  await kv.put('kv/b').value(2);
  await kv.put('kv/c').value(Buffer.from([0, 255, 128]));
  assert.equal(await kv.get('kv/a').string(), '1');
  assert.equal(await kv.get('kv/b').number(), 2);
  assert.deepEqual([...await kv.get('kv/c').buffer()], [0, 255, 128]);
  assert.equal(await kv.get('kv/none'), null);
  assert.equal(await kv.get('kv/a').exists(), true);
  assert.deepEqual(await kv.getAll().prefix('kv/').keys(), ['kv/a', 'kv/b', 'kv/c']);
  assert.equal(await kv.getAll().prefix('kv/').count(), 3);
  assert.deepEqual(await kv.getAll().prefix('kv/').limit(2).strings(), { 'kv/a': '1', 'kv/b': '2' });
  assert.deepEqual(await kv.getAll().prefix('kv/').sort('Key', 'Descend').keys(), ['kv/c', 'kv/b', 'kv/a']);
  assert.deepEqual(await kv.getAll().prefix('kv/').sort('Mod', 'Descend').limit(1).keys(), ['kv/c']);
  assert.deepEqual(await kv.getAll().inRange(new Range('kv/b', 'kv/d')).keys(), ['kv/b', 'kv/c']);
  const first = await kv.get('kv/a').exec();
  assert.deepEqual([first.count, first.more, first.kvs[0].version], ['1', false, '1']);
  await kv.put('kv/a').value('one');
  assert.equal(await kv.get('kv/a').revision(first.header.revision).string(), '1');
  assert.equal((await kv.put('kv/a').value('uno').getPrevious()).value.toString(), 'one');
  await kv.put('kv/a').touch();
  assert.equal(await kv.get('kv/a').string(), 'uno');
  assert.equal(await kv.get('kv/a').serializable(true).exists(), true);
  assert.equal((await kv.delete().key('kv/a').getPrevious())[0].value.toString(), 'uno');
  assert.equal((await kv.delete().prefix('kv/')).deleted, '2');
  await assert.rejects(root.put('').value('x'), /key is not provided/);
}

async function transactions(kv) {
  const create = (value) => kv.if('txn/k', 'Create', '==', 0).then(kv.put('txn/k').value(value)).else(kv.get('txn/k')).commit();
  assert.equal((await create('1')).succeeded, true);
  const lost = await create('2');
  assert.equal(lost.succeeded, false);
  assert.equal(lost.responses[0].response_range.kvs[0].value.toString(), '1');
  const several = await kv.if('txn/k', 'Value', '==', '1').and('txn/k', 'Version', '<', 2).and('txn/none', 'Mod', '==', 0)
    .then(kv.put('txn/l').value('x'), kv.get('txn/l'), kv.delete().key('txn/k')).commit();
  assert.deepEqual([several.succeeded, several.responses.length], [true, 3]);
  assert.equal(several.responses[1].response_range.kvs[0].value.toString(), 'x');
  await assert.rejects(kv.if('txn/k', 'Mod', '==', 0).then(kv.put('txn/d').value('1'), kv.put('txn/d').value('2')).commit(),
    /duplicate key given in txn request/);
}

async function memory(kv) {
  for (const isolation of [Isolation.SerializableSnapshot, Isolation.Serializable, Isolation.RepeatableReads, Isolation.ReadCommitted]) {
    await kv.put('stm/n').value('0');
    const add = () => kv.stm({ isolation, retries: 50 }).transact(async (tx) => {
      const value = await tx.get('stm/n').number();
      await tx.put('stm/n').value(value + 1);
    });
    const adds = isolation === Isolation.ReadCommitted ? 1 : 5;
    await Promise.all(Array.from({ length: adds }, add));
    assert.equal(await kv.get('stm/n').number(), adds);
  }
  await assert.rejects(kv.stm({ retries: 0 }).transact(async (tx) => {
    await tx.get('stm/n').number();
    await kv.put('stm/n').value('taken');
    await tx.put('stm/n').value('lost');
  }), STMConflictError);
  await kv.stm().transact(async (tx) => { await tx.delete().key('stm/n'); });
  assert.equal(await kv.get('stm/n').exists(), false);
}

async function leases(kv) {
  const lease = kv.lease(3);
  await lease.put('lease/a').value('x');
  assert.match(await lease.grant(), /^[1-9][0-9]*$/);
  const renewed = once(lease, 'keepaliveSucceeded');
  const [answer] = await within('a renewal', renewed);
  assert.equal(answer.TTL, '3');
  assert.equal((await lease.keepaliveOnce()).ID, await lease.grant());
  await sleep(3500);
  assert.equal(await kv.get('lease/a').string(), 'x', 'it is kept alive');
  // Somebody else revokes it: the client is told so.
  const lostEvent = once(lease, 'lost');
  await kv.leaseClient.leaseRevoke({ ID: await lease.grant() });
  const [lost] = await within('the loss of a lease', lostEvent);
  assert(lost instanceof etcd3.EtcdLeaseInvalidError, String(lost));
  assert.equal(await kv.get('lease/a').exists(), false);

  const released = kv.lease(2, { autoKeepAlive: false });
  await released.put('lease/b').value('y');
  released.release();
  await eventually('a lease that nobody renews ends', async () => !(await kv.get('lease/b').exists()));
  const revoked = kv.lease(60);
  await revoked.put('lease/c').value('z');
  await revoked.revoke();
  assert.equal(await kv.get('lease/c').exists(), false);
  await assert.rejects(kv.put('lease/d').value('w').lease('4242'), etcd3.EtcdLeaseInvalidError);
}

async function locks(kv, other) {
  let inside = 0;
  const work = (client) => client.lock('lock/l').ttl(10).do(async () => {
    assert.equal(++inside, 1, 'two hold one lock');
    await sleep(50);
    inside -= 1;
  });
  const retry = async (client) => {
    for (;;) {
      try { return await work(client); } catch (error) {
        if (!(error instanceof etcd3.EtcdLockFailedError)) throw error;
        await sleep(20);
      }
    }
  };
  await Promise.all([kv, other, kv, other].map(retry));
}

async function watches(kv) {
  const watcher = await kv.watch().prefix('watch/').withPreviousKV().create();
  const seen = [];
  watcher.on('put', (now, before) => seen.push([now.key.toString(), now.value.toString(), before?.value.toString()]));
  watcher.on('delete', (now, before) => seen.push([now.key.toString(), undefined, before?.value.toString()]));
  const onlyDeletes = await kv.watch().prefix('watch/').only('delete').create();
  const deletes = [];
  onlyDeletes.on('put', () => deletes.push('put')).on('delete', (now) => deletes.push(now.key.toString()));
  const { header } = await kv.put('watch/a').value('1');
  await kv.put('watch/a').value('2');
  await kv.delete().key('watch/a');
  await eventually('three events', async () => seen.length === 3 && deletes.length === 1);
  assert.deepEqual(seen, [['watch/a', '1', undefined], ['watch/a', '2', '1'], ['watch/a', undefined, '2']]);
  assert.deepEqual(deletes, ['watch/a']);

  const past = await kv.watch().key('watch/a').startRevision(header.revision).create();
  const history = [];
  past.on('data', (answer) => history.push(...answer.events.map((event) => event.type)));
  await eventually('the past', async () => history.length === 3);
  assert.deepEqual(history, ['Put', 'Put', 'Delete']);
  await Promise.all([past.cancel(), onlyDeletes.cancel()]);
  await kv.put('watch/a').value('3');
  await eventually('a fourth event', async () => seen.length === 4);
  assert.deepEqual([history.length, deletes.length], [3, 1], 'a cancelled watcher is told nothing');
  await watcher.cancel();
}

async function elections(kv, other) {
  const one = kv.election('app/chief', 5).campaign('one');
  await within('the first is elected', once(one, 'elected'));
  const observer = await other.election('app/chief', 5).observe();
  assert.equal(observer.leader(), 'one');
  const two = other.election('app/chief', 5).campaign('two');
  const changes = [];
  observer.on('change', (leader) => changes.push(leader));
  await one.proclaim('uno');
  await eventually('the proclamation is seen', async () => changes.includes('uno'));
  await one.resign();
  await within('the second is elected', two.wait());
  await eventually('the change is seen', async () => observer.leader() === 'two');
  assert.equal(await kv.election('app/chief').leader(), 'two');
  await two.resign();
  await observer.cancel();
}

async function namespaces(kv) {
  const space = kv.namespace('app/space/');
  await space.put('k').value('v');
  assert.equal(await kv.get('app/space/k').string(), 'v');
  assert.deepEqual(await space.getAll().keys(), ['k']);
  const watcher = await space.watch().key('k').create();
  const put = once(watcher, 'put');
  await space.if('k', 'Value', '==', 'v').then(space.put('k').value('w')).commit();
  const [event] = await within('an event', put);
  assert.deepEqual([event.key.toString(), event.value.toString()], ['k', 'w']);
  await watcher.cancel();
  assert.equal((await space.delete().all()).deleted, '1');
}

async function usersAndRoles() {
  const role = await root.role('reader').create();
  await assert.rejects(root.role('reader').create(), etcd3.EtcdRoleExistsError);
  await role.grant({ permission: 'Read', range: Range.prefix('app/') });
  await role.grant({ permission: 'Readwrite', key: 'single' });
  assert.deepEqual((await role.permissions()).map((p) => p.permission), ['Read', 'Readwrite']);
  await role.revoke({ permission: 'Readwrite', key: 'single' });
  const user = await root.user('ann').create('pass');
  await assert.rejects(root.user('ann').create('pass'), etcd3.EtcdUserExistsError);
  await user.addRole(role);
  assert.deepEqual((await user.roles()).map((r) => r.name), ['reader']);
  assert((await root.getUsers()).some((u) => u.name === 'ann') && (await root.getRoles()).some((r) => r.name === 'reader'));

  const ann = connect('ann', 'pass');
  await app.put('app/for-ann').value('hello');
  assert.equal(await ann.get('app/for-ann').string(), 'hello');
  await assert.rejects(ann.put('app/for-ann').value('x'), etcd3.EtcdPermissionDeniedError);
  await assert.rejects(ann.get('elsewhere').string(), etcd3.EtcdPermissionDeniedError);
  await assert.rejects(ann.getUsers(), etcd3.EtcdPermissionDeniedError);
  await user.setPassword('changed');
  await assert.rejects(connect('ann', 'pass').get('app/for-ann').string(), etcd3.EtcdAuthenticationFailedError);
  const again = connect('ann', 'changed');
  assert.equal(await again.get('app/for-ann').string(), 'hello');
  await user.removeRole(role);
  await assert.rejects(user.removeRole(role), etcd3.EtcdRoleNotGrantedError);
  await assert.rejects(again.get('app/for-ann').string(), etcd3.EtcdPermissionDeniedError);
  await user.delete();
  await role.delete();
  await assert.rejects(root.user('ann').roles(), etcd3.EtcdUserNotFoundError);
  await assert.rejects(root.role('reader').permissions(), etcd3.EtcdRoleNotFoundError);
}

async function maintenance() {
  const status = await root.maintenance.status();
  assert.match(status.version, /^3\.[0-9]+\.[0-9]+$/);
  assert.notEqual(status.leader, '0');
  assert.equal((await root.cluster.memberList({ linearizable: true })).members.length, hosts.length);
  assert.notEqual((await root.maintenance.hash()).hash, 0);
  assert.deepEqual((await root.maintenance.alarm({ action: 'Get', memberID: 0, alarm: 'None' })).alarms, []);
  await root.maintenance.defragment();
  const { header } = await root.get('none').exec();
  await root.kv.compact({ revision: header.revision, physical: true });
  await assert.rejects(root.getAll().prefix('app/').revision(1).keys(), /required revision has been compacted/);
  if (process.env.SERVER === 'quorate') {
    // etcd 3.5 lets every user compact; 3.6 does not.
    await assert.rejects(app.kv.compact({ revision: header.revision }), etcd3.EtcdPermissionDeniedError);
  }
}

// Goes on while the leader dies: a watcher misses nothing and sees nothing twice, a lease lives on, a lock is held.
async function failover() {
  const lines = readline.createInterface({ input: process.stdin });
  const lease = app.lease(10);
  let lost = null;
  lease.on('lost', (error) => { lost = error; });
  await lease.put('app/leased').value('x');
  const watcher = await app.watch().prefix('app/count/').create();
  const seen = [];
  watcher.on('put', (kv) => seen.push(Number(kv.value.toString())));
  const told = once(lines, 'line');
  console.log('kill');
  let dead = false;
  told.then(() => { dead = true; });
  let next = 0;
  for (let after = 0; after < 20; after += dead ? 1 : 0, next += 1) {
    const value = String(next);
    // A put that failed may have happened: the key tells, and makes the next try do no harm.
    await eventually(`put ${value}`, async () => {
      const key = `app/count/${value}`;
      await app.if(key, 'Create', '==', 0).then(app.put(key).value(value)).commit();
      return true;
    });
    await sleep(20);
  }
  await eventually('all events', async () => seen.length >= next);
  assert.deepEqual(seen, Array.from({ length: next }, (_, i) => i));
  assert.equal(lost, null, `the lease was lost: ${lost}`);
  assert.equal(await app.get('app/leased').string(), 'x');
  await watcher.cancel();
  await lease.revoke();
  lines.close();
}

async function main() {
  const space = app.namespace('app/');
  const other = connect('app', 'plain', hosts.slice().reverse());
  const parts = [
    keysAndRanges(space), transactions(space), memory(space), leases(space), locks(space, other.namespace('app/')),
    watches(space), namespaces(app), elections(root, connect('root', 'secret')),
  ];
  await Promise.all(parts);
  // Alone: a request on its way while a role changes is answered that the revision of auth store is old.
  await usersAndRoles();
  await maintenance();
  await assert.rejects(connect('app', 'wrong').get('app/x').string(), etcd3.EtcdAuthenticationFailedError);
  await failover();
  await root.delete().all();
  console.log('ok');
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
