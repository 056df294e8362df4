// Runs the model of a bnas bundle in a browser, with onnxruntime-web.
//
//     npm install                               (in this folder)
//     cp -r ../../digits-bundle bundle          (a bundle of bnas-deploy export)
//     python3 -m http.server                    (then open http://localhost:8000)
//
// A browser cannot load the operator library, so the model runs with the function bodies that it carries: the answers of
// the desktop within the rounding of the float layers, at the speed of float convolutions, not of binary ones.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

// Threads would need a server that isolates the page.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`${url}: ${response.status} ${response.statusText}`);
  }
  return response;
}

// Opens the bundle in the folder at `url`: of a network that classifies images.
export async function openBundle(url) {
  const manifest = await (await fetched(`${url}/manifest.json`)).json();
  if (!manifest.labels) {
    throw new Error("it has no labels, so its network is no classifier; export one that has labels");
  }
  if (!manifest.preprocessing) {
    throw new Error("it has no preprocessing, so nothing says how a drawing becomes its input; export it with one");
  }
  const model = new Uint8Array(await (await fetched(`${url}/model.onnx`)).arrayBuffer());
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return new Bundle(manifest, session);
}

class Bundle {
  constructor(manifest, session) {
    this.labels = manifest.labels;
    this.preprocessing = manifest.preprocessing;
    this.session = session;
  }

  // The network's input of what is drawn on a canvas: the mean colour of the part that each of its pixels stands for,
  // 0 to 255, channel after channel as in `Model.preprocess` of Python. A grey network takes the mean of the colours.
  input(canvas) {
    const { height, width, mean, std } = this.preprocessing;
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const sums = new Float64Array(mean.length * height * width);
    const counts = new Float64Array(height * width);
    for (let y = 0; y < canvas.height; ++y) {
      for (let x = 0; x < canvas.width; ++x) {
        const pixel = Math.floor((y * height) / canvas.height) * width + Math.floor((x * width) / canvas.width);
        const colour = data.subarray(4 * (y * canvas.width + x));
        counts[pixel] += 1;
        mean.forEach((_, channel) => {
          const value = mean.length === 1 ? (colour[0] + colour[1] + colour[2]) / 3 : colour[channel];
          sums[channel * height * width + pixel] += value;
        });
      }
    }
    return this.normalised(sums.map((sum, i) => Math.round(sum / counts[i % counts.length])));
  }

  // Whole numbers 0 to 255, (channels, height, width) in one row, as the network takes them.
  normalised(pixels) {
    const { height, width, mean, std } = this.preprocessing;
    return Float32Array.from(pixels, (value, i) => {
      const channel = Math.floor(i / (height * width)) % mean.length;
      return (value / 255 - mean[channel]) / std[channel];
    });
  }

  // The logits of one input, in the order of `labels`.
  async predict(input) {
    const { height, width, mean } = this.preprocessing;
    const tensor = new ort.Tensor("float32", input, [1, mean.length, height, width]);
    const answers = await this.session.run({ [this.session.inputNames[0]]: tensor });
    return Array.from(answers[this.session.outputNames[0]].data);
  }
}
