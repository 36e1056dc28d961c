// Samples of a generator in the browser. Latents come from the generator of random numbers below, which is not that of
// JAX: a seed has other images here than in `--mode=sample`.
import * as ort from "./ort.wasm.bundle.min.mjs";

ort.env.wasm.numThreads = 1; // more need headers that a plain file server does not send

const settings = JSON.parse(document.getElementById("settings").textContent);
const [height, width, channels] = settings.imageShape;
const element = (id) => document.getElementById(id);

// Uniform numbers in [0, 1): mulberry32.
function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// N(0, 1) by Box and Muller. A number beyond `bound` is drawn again.
function normal(next, bound) {
  for (;;) {
    const value = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
    if (Math.abs(value) <= bound) return value;
  }
}

// The latent of image `index` of a seed.
function latent(seed, index) {
  const next = uniform(Math.imul(seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
  const bound = settings.hasStyles ? Infinity : truncation();
  const { prior } = settings;
  return Float32Array.from({ length: settings.latentSize }, () =>
    settings.isNormal ? prior.mean + prior.sd * normal(next, bound) : prior.low + (prior.high - prior.low) * next());
}

// Spherical interpolation (White 2016, arXiv:1609.04468) of normal latents around their mean; linear for uniform ones.
function between(a, b, t) {
  const mean = settings.isNormal ? settings.prior.mean : 0;
  const x = a.map((value) => value - mean), y = b.map((value) => value - mean);
  const dot = (p, q) => p.reduce((sum, value, i) => sum + value * q[i], 0);
  const cosine = dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const isLinear = !settings.isNormal || !(Math.sin(angle) > 1e-4);
  const [p, q] = isLinear ? [1 - t, t] : [Math.sin((1 - t) * angle), Math.sin(t * angle)].map((s) => s / Math.sin(angle));
  return x.map((value, i) => mean + p * value + q * y[i]);
}

function truncation() {
  const value = Number(element("psi").value);
  return settings.hasStyles || value < Number(element("psi").max) ? value : Infinity;
}

let session = null;
let running = Promise.resolve(); // one run of the generator after the other

// Images uint8 [n, height, width, channels] of latents, one after the other in one array.
function generate(latents, labels) {
  const run = async () => {
    const count = latents.length;
    const flat = new Float32Array(count * settings.latentSize);
    latents.forEach((values, i) => flat.set(values, i * settings.latentSize));
    const feeds = { latent: new ort.Tensor("float32", flat, [count, settings.latentSize]) };
    if (settings.classNames.length) feeds.label = new ort.Tensor("int32", Int32Array.from(labels), [count]);
    if (settings.hasStyles) feeds.psi = new ort.Tensor("float32", Float32Array.of(truncation()), []);
    return (await session.run(feeds, ["images"])).images.data;
  };
  const result = running.then(run);
  running = result.catch(() => {});
  return result;
}

// Draws images on a canvas, in so many columns, and enlarges small ones by a whole factor.
function draw(canvas, images, columns, widest) {
  const count = images.length / (height * width * channels);
  const gap = count > 1 ? 1 : 0;
  canvas.width = columns * (width + gap) - gap;
  canvas.height = Math.ceil(count / columns) * (height + gap) - gap;
  const context = canvas.getContext("2d");
  for (let n = 0; n < count; n++) {
    const pixels = context.createImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      const at = (n * height * width + i) * channels;
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = images[at + (channels === 3 ? c : 0)];
      pixels.data[4 * i + 3] = 255;
    }
    context.putImageData(pixels, (n % columns) * (width + gap), Math.floor(n / columns) * (height + gap));
  }
  canvas.style.width = `${canvas.width * Math.max(1, Math.floor(widest / canvas.width))}px`;
}

function label(index) {
  const choice = element("class").value;
  return choice === "" || choice === undefined ? index % Math.max(settings.classNames.length, 1) : Number(choice);
}

function say(text) {
  element("status").textContent = text;
}

async function sample() {
  if (!element("sample").reportValidity()) return;
  const seed = Number(element("seed").value), count = Number(element("count").value);
  const indices = Array.from({ length: count }, (_, i) => i);
  say(`Generating ${count} images.`);
  const start = performance.now();
  const images = await generate(indices.map((i) => latent(seed, i)), indices.map(label));
  draw(element("grid"), images, Math.ceil(Math.sqrt(count)), 640);
  const choice = element("class").selectedOptions[0]?.textContent;
  element("grid").setAttribute("aria-label", `${count} samples of seed ${seed}${choice ? `, class: ${choice}` : ""}`);
  say(`${count} images in ${Math.round(performance.now() - start)} ms.`);
}

async function interpolate() {
  if (!element("interpolate").reportValidity()) return;
  const [from, to] = ["from", "to"].map((id) => Number(element(id).value));
  const t = Number(element("position").value);
  element("position-value").textContent = t.toFixed(2);
  const images = await generate([between(latent(from, 0), latent(to, 0), t)], [label(0)]);
  draw(element("frame"), images, 1, 320);
  element("frame").setAttribute("aria-label", `Image at ${t.toFixed(2)} of the way from seed ${from} to seed ${to}`);
}

let direction = 0; // of the animation; 0: it is stopped

async function play() {
  const position = element("position");
  direction = direction ? 0 : 1;
  element("play").textContent = direction ? "Pause" : "Play";
  element("play").setAttribute("aria-pressed", String(Boolean(direction)));
  while (direction) {
    const next = Number(position.value) + 0.02 * direction;
    if (next <= 0 || next >= 1) direction = -direction;
    position.value = Math.min(1, Math.max(0, next));
    await interpolate();
    await new Promise(requestAnimationFrame);
  }
}

function save() {
  const link = document.createElement("a");
  link.download = `samples_step${settings.step}_seed${element("seed").value}.png`;
  link.href = element("grid").toDataURL("image/png");
  link.click();
}

function setUp() {
  document.title = `Generator, step ${settings.step}`;
  document.querySelector("h1").textContent = document.title;
  const names = settings.classNames;
  element("class").parentElement.hidden = names.length === 0;
  if (names.length) element("class").append(new Option("all in turn", ""), ...names.map((name, i) => new Option(name, i)));
  const psi = element("psi");
  psi.parentElement.hidden = !settings.hasStyles && !settings.isNormal;
  if (settings.hasStyles) {
    Object.assign(psi, { min: -1, max: 1.5, step: 0.05, value: settings.truncation ?? 1 });
    element("psi-label").textContent = "Truncation psi";
  } else {
    Object.assign(psi, { min: 0.1, max: Math.max(3, 1 + (settings.truncation ?? 0)), step: 0.1, value: settings.truncation ?? 3 });
    element("psi-label").textContent = "Truncation (standard deviations)";
  }
}

function showTruncation() {
  element("psi-value").textContent = truncation() === Infinity ? "none" : truncation().toFixed(2);
}

async function all() {
  showTruncation();
  await Promise.all([sample(), interpolate()]);
}

async function start() {
  setUp();
  session = await ort.InferenceSession.create(settings.graph);
  const failed = (error) => say(`The generator failed: ${error.message}`);
  const on = (id, event, action) => element(id).addEventListener(event, (given) => {
    given.preventDefault();
    action().catch(failed);
  });
  for (const id of ["controls", "interpolate"]) element(id).addEventListener("submit", (given) => given.preventDefault());
  on("sample", "submit", sample);
  on("next", "click", async () => {
    element("seed").value = (Number(element("seed").value) + 1) % 4294967296;
    await sample();
  });
  on("save", "click", async () => save());
  on("class", "change", all);
  on("psi", "change", all);
  element("psi").addEventListener("input", showTruncation);
  for (const id of ["from", "to"]) on(id, "change", interpolate);
  on("position", "input", interpolate);
  on("play", "click", play);
  await all();
}

start().catch((error) => say(`The generator could not be loaded: ${error.message}`));
