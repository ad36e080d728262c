// Runs an ONNX model by onnxruntime-web: node webassembly.mjs FOLDER NODE_MODULES, as webassembly.py does.
//
// FOLDER has model.onnx, request.json and the inputs, raw and little-endian; answer.json and the outputs join them.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  bool: Uint8Array,
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int16: Int16Array,
  uint32: Uint32Array,
  int32: Int32Array,
  uint64: BigUint64Array,
  int64: BigInt64Array,
};

const [folder, nodeModules] = process.argv.slice(2);

try {
  const ort = createRequire(join(nodeModules, "_"))("onnxruntime-web");
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;
  const request = JSON.parse(readFileSync(join(folder, "request.json"), "utf8"));
  const session = await ort.InferenceSession.create(readFileSync(join(folder, "model.onnx")), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: request.optimise ? "all" : "disabled",
    logSeverityLevel: 3,
  });
  const answer = [];
  for (const [i, inputs] of request.runs.entries()) {
    const feeds = Object.fromEntries(inputs.map((input) => [input.name, read(ort, input)]));
    const results = await session.run(feeds, request.outputs);
    answer.push(request.outputs.map((name, j) => write(name, results[name], `output-${i}-${j}.bin`)));
  }
  writeFileSync(join(folder, "answer.json"), JSON.stringify(answer));
} catch (error) {
  // One line: without this, Node shows the source of the package, which is a single line of 20 kB.
  console.error(`Error: ${String(error?.message ?? error).replaceAll(/\s+/g, " ")}`);
  process.exitCode = 1;
}

function read(ort, { type, dims, file }) {
  const bytes = readFileSync(join(folder, file));
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength); // aligned
  return new ort.Tensor(type, new ARRAYS[type](buffer), dims);
}

function write(name, { type, dims, data }, file) {
  if (!(type in ARRAYS)) throw new Error(`output '${name}' is ${type}, which is none of ${Object.keys(ARRAYS)}`);
  writeFileSync(join(folder, file), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return { name, type, dims, file };
}
