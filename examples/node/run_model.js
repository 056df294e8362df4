// Runs a model of a bnas bundle in Node.js.
//
//     npm install --onnxruntime-node-install=skip       (in this folder; skip: no download of GPU libraries)
//     node run_model.js MODEL.onnx INPUT.f32
//
// INPUT.f32 holds float32 numbers as they lie in memory, one or more inputs of the model behind each other. The numbers
// of the first output are printed, one a line, each input's answer after the other.
//
// onnxruntime's package for Node.js has no way to register a library of custom operators, so the model runs with the
// function bodies that it carries: the same bits as with the library, at the speed of float convolutions.
import { readFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";

function floatsOf(path) {
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

const [modelPath, inputPath] = process.argv.slice(2);
if (!inputPath) {
  console.error("usage: node run_model.js MODEL.onnx INPUT.f32");
  process.exit(1);
}
const session = await InferenceSession.create(modelPath);
const values = floatsOf(inputPath);
const fixed = session.inputMetadata[0].shape.slice(1); // all but the batch, which is left open
const batch = values.length / fixed.reduce((product, size) => product * size, 1);
if (!Number.isInteger(batch) || batch < 1) {
  console.error("the input file does not hold a whole number of inputs");
  process.exit(1);
}
const answers = await session.run({ [session.inputNames[0]]: new Tensor("float32", values, [batch, ...fixed]) });
for (const value of answers[session.outputNames[0]].data) {
  console.log(value);
}
