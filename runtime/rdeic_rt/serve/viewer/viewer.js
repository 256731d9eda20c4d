// The page at `/`: what is dropped is encoded by the server that sent the page, and decoded by it or in this tab.

import {
  Latest, address, bytes, captionOf, element, followPointer, followSharpness, isRdc, say, takeFiles,
} from "./comparison.js";
import { Here } from "./here.js";

const tasks = new Latest();
/** `here` decodes in this tab, if the server offers what that needs. */
const state = { original: null, rdc: null, bundles: [], here: null };

/** Sends a body and returns the answer; an error is thrown with the server's own words. */
async function post(route, query, body, { signal, headers = {} }) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value !== null));
  const answer = await fetch(`${route}?${words}`, { method: "POST", body, headers, signal });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? `${answer.status} ${answer.statusText}`);
}

function bundle() {
  return state.bundles.find((one) => one.name === element("bundle").value) ?? state.bundles[0];
}

function fillRates() {
  const options = bundle().rates.map((rate) => new Option(`${rate.label} (about ${rate.bpp.toFixed(3)} bpp)`, rate.index));
  element("rate").replaceChildren(...options);
  element("rate").value = bundle().default_rate;
}

async function open(file, signal) {
  const coded = await isRdc(file);
  state.original = coded ? null : file;
  state.rdc = coded ? file : null;
  element("controls").hidden = false;
  for (const id of ["bundle", "rate", "other"]) element(id).disabled = coded;
  element("left").hidden = element("line").hidden = coded;
  await (coded ? decode(signal) : encode(signal));
}

async function encode(signal) {
  say("encoding ...");
  const query = { bundle: bundle().name, rate: element("rate").value, strip: true };
  const answer = await post("/v1/encode", query, state.original, { signal });
  state.rdc = await answer.blob();
  await beside(signal);
  await decode(signal);
}

/** Shows what the decoded image is compared with. */
async function beside(signal) {
  const kind = element("other").value;
  let blob = state.original;
  let caption = `original, ${bytes(blob.size)}`;
  if (kind) {
    const query = { codec: kind, target_bytes: state.rdc.size };
    const answer = await post("/v1/compare", query, state.original, { signal });
    blob = await answer.blob();
    caption = captionOf(kind, Number(answer.headers.get("Rdc-Bytes")), Number(answer.headers.get("Rdc-Scale")));
  }
  element("left").alt = caption;
  element("left-caption").textContent = caption;
  address("left", "src", blob);
}

async function decode(signal) {
  say("decoding ...");
  const half = element("half").checked;
  const data = half ? state.rdc.slice(0, Math.ceil(state.rdc.size / 2)) : state.rdc;
  const options = { sharpness: Number(element("sharpness").value), half, signal };
  const began = performance.now();
  const isHere = element("where").value === "here";
  const image = await (isHere ? decodeHere(data, options) : decodeThere(data, options));
  const took = Math.round(performance.now() - began);
  address("right", "src", image);
  element("figure").hidden = false;
  const facts = half ? null : await (await post("/v1/info", {}, state.rdc, { signal })).json();
  const rate = facts?.label ? `, rate ${facts.label}, ${facts.bpp.toFixed(4)} bpp` : "";
  element("right-caption").textContent = `.rdc, ${bytes(data.size)}${half ? ` of ${bytes(state.rdc.size)}` : ""}${rate}`;
  address("save-rdc", "href", state.rdc);
  address("save-png", "href", image);
  say(`decoded ${isHere ? "in this tab" : "on the server"} in ${took} ms`);
}

async function decodeThere(data, { sharpness, half, signal }) {
  const headers = { Accept: "image/png" };
  const answer = await post("/v1/decode", { sharpness, allow_partial: half }, data, { signal, headers });
  return answer.blob();
}

async function decodeHere(data, { sharpness, half, signal }) {
  const { decoder } = await state.here.decoderOf(await state.here.info(data, { allowPartial: half }));
  signal.throwIfAborted();
  const { png } = await state.here.decode(decoder, data, { sharpness, allowPartial: half, signal });
  signal.throwIfAborted();
  return png;
}

/** Offers to decode in this tab, where the server has the modules (`rdeic-rt serve --web-modules`). */
async function offerHere() {
  if (!state.bundles.some(({ url }) => url)) return;
  state.here = new Here(await import("/modules/rdeic-web/src/index.js"), state.bundles);
  element("where-row").hidden = false;
}

const onChange = (id, task) => element(id).addEventListener("change", () => tasks.run(task));
followPointer();
followSharpness(() => {}, () => tasks.run(decode));
takeFiles((file) => tasks.run((signal) => open(file, signal)));
onChange("bundle", (signal) => {
  fillRates();
  return encode(signal);
});
onChange("rate", encode);
onChange("other", beside);
onChange("half", decode);
onChange("where", decode);

await tasks.run(async () => {
  state.bundles = await (await fetch("/v1/bundles")).json();
  element("bundle").replaceChildren(...state.bundles.map((one) => new Option(one.name, one.name)));
  fillRates();
  await offerHere();
});
