// The demo: a file is fetched or dropped, and all else happens in this tab.

import {
  Latest, address, bytes, captionOf, element, followPointer, followSharpness, isRdc, say, takeFiles,
} from "./comparison.js";
import { Here } from "./here.js";
import * as rdeicWeb from "./modules/rdeic-web/src/index.js";

const CODECS = ["jpeg", "webp", "avif"];
const tasks = new Latest();
let here;
let samples = [];
/** What is shown: { name, data, info, sample, file }; sample and file are null for a file that was dropped. */
let shown = null;
/** Decoded without denoising: { data, png }. */
let preview = null;
/** Whether to decode at once: where the user asks for less data, only when told to. */
let wanted = !rdeicWeb.prefersReducedData();

const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
const megabytes = (n) => `${(n / 1e6).toFixed(1)} MB`;

/** Returns the seconds of the stages of the last decode, as text. */
function stages({ stats }) {
  const parts = Object.entries(stats.seconds ?? {}).filter(([, count]) => count >= 0.005);
  return parts.length ? ` (${parts.map(([name, count]) => `${name} ${count.toFixed(2)}`).join(", ")})` : "";
}

async function json(path) {
  return (await fetched(path)).json();
}

async function fetched(path, signal) {
  const answer = await fetch(path, { signal });
  if (!answer.ok) throw new Error(`${path}: the server answered ${answer.status}`);
  return answer;
}

/** Opens the chosen file of the chosen sample; the page's address then leads to it. */
function openSample() {
  return tasks.run(async (signal) => {
    await ready;
    const sample = samples[element("sample").value];
    const file = sample.files[element("size").value];
    history.replaceState(null, "", `#${file.file}`);
    const data = new Uint8Array(await (await fetched(`samples/${file.file}`, signal)).arrayBuffer());
    await open({ name: file.file, data, sample, file }, signal);
  });
}

function openFile(dropped) {
  return tasks.run(async (signal) => {
    await ready;
    if (!(await isRdc(dropped))) throw new Error(`${dropped.name} is not an .rdc file`);
    const data = new Uint8Array(await dropped.arrayBuffer());
    history.replaceState(null, "", " ");
    await open({ name: dropped.name, data, sample: null, file: null }, signal);
  });
}

/** Lays out what the header tells, before there is an image, and decodes. */
async function open(opened, signal) {
  const info = await here.info(opened.data);
  signal.throwIfAborted();
  shown = { ...opened, info };
  preview = null;
  const { style } = element("figure");
  style.setProperty("--width", info.width);
  style.setProperty("--height", info.height);
  element("right").removeAttribute("src");
  element("right-caption").textContent = "";
  address("save-rdc", "href", new Blob([opened.data]));
  element("save-rdc").download = opened.name;
  element("save-png").hidden = true;
  fillOthers();
  await decode(signal);
}

/** Offers what a sample is compared with; what is dropped comes alone. */
function fillOthers() {
  const { sample, file } = shown;
  const select = element("other");
  for (const id of ["left", "line", "divide-row", "credit"]) element(id).hidden = !sample;
  select.disabled = !sample;
  if (!sample) {
    select.replaceChildren(new Option("nothing"));
    element("left-caption").textContent = "";
    return;
  }
  const before = select.value;
  const options = CODECS.map((codec) => {
    const option = new Option(`${codec.toUpperCase()} of equal size`, codec);
    if (!file.others[codec]) Object.assign(option, { disabled: true, text: `${codec.toUpperCase()}: no file is so small` });
    return option;
  });
  select.replaceChildren(new Option("the original", ""), ...options);
  select.value = file.others[before] ? before : "";
  element("credit").textContent = `Photo: ${sample.subject}. ${sample.credit}.`;
  beside();
}

function beside() {
  const { sample, file } = shown;
  const codec = element("other").value;
  const other = file.others[codec];
  const caption = other ? captionOf(codec, other.bytes, other.scale) : `original, ${bytes(sample.bytes)}`;
  element("left").src = `samples/${other?.file ?? sample.original}`;
  element("left").alt = `${sample.subject}: ${caption}`;
  element("left-caption").textContent = caption;
}

/** Returns the bytes to decode. */
function part() {
  const { data } = shown;
  return element("half").checked ? data.slice(0, Math.ceil(data.length / 2)) : data;
}

/** Decodes what is shown as the controls say: a preview first, then the image. */
async function decode(signal) {
  element("start").hidden = wanted;
  if (!wanted) return say("You ask for less data, and decoding downloads a model once.");
  say("Decoding ...");
  const { decoder, rate } = await here.decoderOf(shown.info);
  signal.throwIfAborted();
  fillOptions(rate);
  const data = part();
  const options = { signal, allowPartial: element("half").checked, onProgress };
  if (preview?.data.length === data.length) showImage(preview.png, "preview");
  else await decodePreview(decoder, data, options);
  const began = performance.now();
  const { png, ...decoded } = await here.decode(decoder, data, { ...options, ...chosen(rate) });
  signal.throwIfAborted();
  showImage(png, "");
  const took = performance.now() - began;
  address("save-png", "href", png);
  element("save-png").download = shown.name.replace(/(\.rdc)?$/, ".png");
  element("save-png").hidden = false;
  showFacts(decoder, rate, decoded, took);
  say(`Decoded here in ${seconds(took)}.`);
}

async function decodePreview(decoder, data, options) {
  const began = performance.now();
  const { png } = await here.decode(decoder, data, { ...options, preview: true });
  options.signal.throwIfAborted();
  preview = { data, png, took: `${seconds(performance.now() - began)}${stages(decoder)}` };
  showImage(png, "preview");
}

/** Returns the options of decoding that the controls give, for a rate. */
function chosen(rate) {
  const [seed, steps] = [element("seed").value, element("steps").value];
  return {
    sharpness: rate.guided ? Number(element("sharpness").value) : 1,
    ...(seed && element("seed").validity.valid ? { seed: BigInt(seed) } : {}),
    ...(steps ? { steps: Number(steps) } : {}),
  };
}

/** Enables the controls that have an effect at a rate. */
function fillOptions(rate) {
  element("sharpness").disabled = !rate.guided;
  const select = element("steps");
  const before = select.value;
  const choices = rate.stepChoices.filter((count) => count !== rate.steps);
  select.replaceChildren(new Option(`${rate.steps ?? 1} (as trained)`, ""), ...choices.map((count) => new Option(count, count)));
  select.value = choices.includes(Number(before)) ? before : "";
  select.disabled = choices.length === 0;
}

function onProgress({ stage, done, total }) {
  const progress = element("progress");
  progress.hidden = stage === "done";
  progress.max = total || 1;
  progress.value = done;
  if (stage === "download" && total) say(`Loading ${megabytes(total)} of the model ...`);
}

function showImage(png, kind) {
  element("progress").hidden = true;
  address("right", "src", png);
  const { data } = shown;
  const part = element("half").checked ? `${bytes(Math.ceil(data.length / 2))} of ${bytes(data.length)}` : bytes(data.length);
  element("right-caption").textContent = `.rdc, ${part}${kind && `, ${kind}`}`;
  element("right").alt = `${shown.sample?.subject ?? shown.name}: ${element("right-caption").textContent}`;
}

function showFacts(decoder, rate, decoded, took) {
  const { info, data } = shown;
  const { stats, bundle } = decoder;
  const facts = {
    Image: `${info.width} x ${info.height} pixels, ${((8 * data.length) / (info.width * info.height)).toFixed(4)} bits per pixel`,
    Model: `${bundle.name} (${bundle.licence}), rate ${rate.label}`,
    Preview: preview.took,
    Decoding: `${seconds(took)}${stages(decoder)}`,
    "Runs on": `${stats.threads} thread${stats.threads > 1 ? "s" : ""} of ${stats.backend === "webgpu" ? "WebGPU" : "WebAssembly"}`,
    Weights: `${megabytes(stats.downloadedBytes)} downloaded, ${megabytes(stats.cachedBytes)} from this browser`,
    ...(decoded.missingBytes ? { "Half a file": `${decoded.completeSlices} of ${decoded.nSlices} slices` } : {}),
  };
  const rows = Object.entries(facts).flatMap(([name, text]) =>
    [["dt", name], ["dd", text]].map(([tag, content]) => Object.assign(document.createElement(tag), { textContent: content })),
  );
  element("facts").replaceChildren(...rows);
}

const again = () => shown && tasks.run(decode);

/** Waits until the service worker sees what is fetched, so that all of it is there without a network the next time. */
async function keptOffline() {
  const { serviceWorker } = navigator;
  if (!serviceWorker || serviceWorker.controller) return serviceWorker?.register("service-worker.js");
  const controlled = new Promise((resolve) => serviceWorker.addEventListener("controllerchange", resolve, { once: true }));
  const { installing } = await serviceWorker.register("service-worker.js");
  const failed = new Promise((resolve) =>
    installing?.addEventListener("statechange", () => installing.state === "redundant" && resolve()),
  );
  await Promise.race([controlled, failed]);
}

function fillSizes() {
  const { files } = samples[element("sample").value];
  element("size").replaceChildren(...files.map(({ bytes: n, label }, at) => new Option(`${bytes(n)} (${label})`, at)));
}

followPointer();
followSharpness(
  () => preview && tasks.run(async () => showImage(preview.png, "preview")),
  again,
);
takeFiles(openFile);
for (const id of ["steps", "seed", "half"]) element(id).addEventListener("change", again);
element("other").addEventListener("change", beside);
element("size").addEventListener("change", openSample);
element("sample").addEventListener("change", () => {
  const { value } = element("size");
  fillSizes();
  element("size").value = value;
  openSample();
});
element("start").addEventListener("click", () => {
  wanted = true;
  again();
});
element("controls").addEventListener("submit", (event) => event.preventDefault());

async function start() {
  await keptOffline().catch(() => {}); // no service worker, as in private windows: the page works all the same
  const bundles = await json("bundles/index.json");
  const located = bundles.map(({ url, ...bundle }) => ({ ...bundle, url: `bundles/${url}` }));
  here = new Here(rdeicWeb, located, { compressed: "gzip" });
  samples = await json("samples/index.json");
  element("sample").replaceChildren(...samples.map(({ subject }, at) => new Option(subject, at)));
  const isLinked = ({ file }) => `#${file}` === location.hash;
  const linked = Math.max(samples.findIndex(({ files }) => files.some(isLinked)), 0);
  element("sample").value = linked;
  fillSizes();
  element("size").value = Math.max(samples[linked].files.findIndex(isLinked), 0);
}

const ready = start();
await openSample();
