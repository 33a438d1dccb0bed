// Fills, drops and checks heaps: in this thread, in worker threads and in forked processes. Prints
// the same on every run.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { createHash } = require('crypto');
const childProcess = require('child_process');
const zlib = require('zlib');

const RECORDS = 6000;

// A generator of numbers below `bound`, the same for the same seed.
function generator(seed) {
  let state = seed + 1;
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % bound;
  };
}

function makeRecord(number, random) {
  const body = Buffer.alloc(200 + random(3000), `record ${number} `);
  for (let i = 0; i < body.length; i += 3) body[i] = random(256);
  const numbers = Float64Array.from({ length: 16 }, (_, i) => number / (i + 1));
  const text = body.toString('base64').slice(0, 300);
  return { number, body, numbers, text, tags: [number, { half: number / 2 }], crc: null };
}

function checksum(record) {
  const hash = createHash('md5').update(record.body).update(record.text);
  hash.update(new Uint8Array(record.numbers.buffer));
  return hash.update(JSON.stringify(record.tags)).digest('hex');
}

function work(seed, rounds) {
  const random = generator(seed);
  const table = new Map();
  const all = createHash('md5');
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < RECORDS; i++) {
      const record = makeRecord(random(RECORDS), random);
      record.crc = checksum(record);
      table.set(record.number, record);
    }
    for (const [number, record] of table) {
      if (record.number !== number || checksum(record) !== record.crc) {
        throw new Error(`record ${number} is wrong`);
      }
      all.update(record.crc);
    }
    const packed = zlib.deflateSync(Buffer.concat([...table.values()].map((r) => r.body)), { level: 1 });
    all.update(createHash('md5').update(zlib.inflateSync(packed)).digest());
    if (round % 2 === 0) global.gc();
    for (let i = 0; i < RECORDS; i += 2) table.delete(i);
  }
  return all.digest('hex');
}

function inWorker(seed, rounds) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: { seed, rounds } });
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

function inProcess(seed, rounds) {
  return new Promise((resolve, reject) => {
    const child = childProcess.fork(__filename, ['child', seed, rounds], { execArgv: ['--expose-gc'] });
    let answer = null;
    child.once('message', (message) => { answer = message; });
    child.once('exit', (code) => (code === 0 ? resolve(answer) : reject(new Error(`child: exit ${code}`))));
  });
}

async function main(rounds) {
  const others = [inWorker(1, rounds), inWorker(2, rounds), inProcess(3, rounds)];
  console.log('main', work(0, Math.ceil(rounds / 2)));
  console.log('others', ...(await Promise.all(others)));
  // Programs that end at once, from a heap that is being taken out.
  for (let i = 0; i < 20; i++) {
    const out = childProcess.execFileSync('echo', [String(i)]).toString();
    if (out !== `${i}\n`) throw new Error(`echo said ${out}`);
  }
  console.log('all right');
}

if (!isMainThread) {
  parentPort.postMessage(work(workerData.seed, workerData.rounds));
} else if (process.argv[2] === 'child') {
  process.send(work(Number(process.argv[3]), Number(process.argv[4])));
} else {
  main(Number(process.argv[2])).catch((error) => {
    console.error(error);
    process.exit(1);
  });
}
