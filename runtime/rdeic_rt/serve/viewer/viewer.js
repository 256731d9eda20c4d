// The page at `/`: what is dropped is encoded and decoded by the server that sent the page.

const element = (id) => document.getElementById(id);
const state = { original: null, rdc: null, bundles: [], running: null, urls: {} };

function say(text, isError = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

function show(id, blob) {
  if (state.urls[id]) URL.revokeObjectURL(state.urls[id]);
  state.urls[id] = URL.createObjectURL(blob);
  element(id).src = state.urls[id];
}

function offer(id, blob) {
  if (state.urls[id]) URL.revokeObjectURL(state.urls[id]);
  state.urls[id] = URL.createObjectURL(blob);
  element(id).href = state.urls[id];
}

/** Sends a body and returns the answer; an error is thrown with the server's own words. */
async function post(route, query, body, headers = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value !== null));
  const answer = await fetch(`${route}?${words}`, { method: "POST", body, headers, signal: state.running.signal });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? `${answer.status} ${answer.statusText}`);
}

/** Runs one task; one that is still running is given up, which the server notices. */
async function run(task) {
  state.running?.abort();
  const mine = (state.running = new AbortController());
  try {
    await task();
  } catch (error) {
    if (!mine.signal.aborted) say(error.message, true);
  }
}

const bytes = (n) => `${n.toLocaleString("en")} bytes`;

function bundle() {
  return state.bundles.find((one) => one.name === element("bundle").value) ?? state.bundles[0];
}

function fillRates() {
  const options = bundle().rates.map((rate) => new Option(`${rate.label} (about ${rate.bpp.toFixed(3)} bpp)`, rate.index));
  element("rate").replaceChildren(...options);
  element("rate").value = bundle().default_rate;
}

async function open(file) {
  await run(async () => {
    const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
    const isRdc = head[0] === 0x89 && head[1] === 0x52 && head[2] === 0x44 && head[3] === 0x43;
    state.original = isRdc ? null : file;
    state.rdc = isRdc ? file : null;
    element("controls").hidden = false;
    for (const id of ["bundle", "rate", "other"]) element(id).disabled = isRdc;
    element("left").hidden = element("line").hidden = isRdc;
    await (isRdc ? decode() : encode());
  });
}

async function encode() {
  say("encoding ...");
  const query = { bundle: bundle().name, rate: element("rate").value, strip: true };
  const answer = await post("/v1/encode", query, state.original);
  state.rdc = await answer.blob();
  await beside();
  await decode();
}

/** Shows what the decoded image is compared with. */
async function beside() {
  const kind = element("other").value;
  let blob = state.original;
  let caption = `original, ${bytes(blob.size)}`;
  if (kind) {
    const answer = await post("/v1/compare", { codec: kind, target_bytes: state.rdc.size }, state.original);
    blob = await answer.blob();
    const scale = Number(answer.headers.get("Rdc-Scale"));
    const size = bytes(Number(answer.headers.get("Rdc-Bytes")));
    caption = `${kind.toUpperCase()}, ${size}${scale < 1 ? `, scaled to ${Math.round(100 * scale)} % and back` : ""}`;
  }
  element("left").alt = caption;
  element("left-caption").textContent = caption;
  show("left", blob);
}

async function decode(preview = false) {
  say(preview ? "preview ..." : "decoding ...");
  const half = element("half").checked;
  const data = half ? state.rdc.slice(0, Math.ceil(state.rdc.size / 2)) : state.rdc;
  const query = { sharpness: preview ? 1 : element("sharpness").value, preview, allow_partial: half };
  const began = performance.now();
  const answer = await post("/v1/decode", query, data, { Accept: "image/png" });
  const image = await answer.blob();
  show("right", image);
  element("figure").hidden = false;
  const facts = half ? null : await (await post("/v1/info", {}, state.rdc)).json();
  const rate = facts?.label ? `, rate ${facts.label}, ${facts.bpp.toFixed(4)} bpp` : "";
  element("right-caption").textContent = `.rdc, ${bytes(data.size)}${half ? ` of ${bytes(state.rdc.size)}` : ""}${rate}`;
  offer("save-rdc", state.rdc);
  offer("save-png", image);
  say(`decoded on the server in ${Math.round(performance.now() - began)} ms`);
}

element("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
element("divide").addEventListener("input", (event) => {
  element("stage").style.setProperty("--divide", `${event.target.value}%`);
});
element("stage").addEventListener("pointermove", (event) => {
  const box = element("stage").getBoundingClientRect();
  element("divide").value = (100 * (event.clientX - box.left)) / box.width;
  element("divide").dispatchEvent(new Event("input"));
});
element("bundle").addEventListener("change", () => { fillRates(); run(encode); });
element("rate").addEventListener("change", () => run(encode));
element("other").addEventListener("change", () => run(beside));
element("half").addEventListener("change", () => run(decode));
element("sharpness").addEventListener("input", (event) => {
  element("sharpness-value").textContent = Number(event.target.value).toFixed(1);
});
element("sharpness").addEventListener("change", () => run(decode));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}

await run(async () => {
  state.bundles = await (await fetch("/v1/bundles")).json();
  element("bundle").replaceChildren(...state.bundles.map((one) => new Option(one.name, one.name)));
  fillRates();
});
