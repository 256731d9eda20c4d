// What the viewer of `rdeic-rt serve` and the demo (web/demo) have in common: two images that meet at a divider.

export const element = (id) => document.getElementById(id);

/** Returns a number of bytes as text. */
export const bytes = (n) => `${n.toLocaleString("en")} bytes`;

/** Shows a message in the page's live region. */
export function say(text, isError = false) {
  // A live region is read out each time it is set.
  if (element("status").textContent !== text) element("status").textContent = text;
  element("status").classList.toggle("error", isError);
}

const addresses = {};

/** Gives an element's attribute, `src` or `href`, the address of a blob, and forgets the one it had. */
export function address(id, attribute, blob) {
  const key = `${id} ${attribute}`;
  if (addresses[key]) URL.revokeObjectURL(addresses[key]);
  addresses[key] = URL.createObjectURL(blob);
  element(id)[attribute] = addresses[key];
}

/** Returns whether a file begins as every .rdc file does; anything else is taken for an image. */
export async function isRdc(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  return [0x89, 0x52, 0x44, 0x43].every((byte, at) => head[at] === byte);
}

/** Returns the caption of what another codec makes of the image; `scale` below 1: of a smaller image. */
export function captionOf(codec, nBytes, scale) {
  return `${codec.toUpperCase()}, ${bytes(nBytes)}${scale < 1 ? `, scaled to ${Math.round(100 * scale)} % and back` : ""}`;
}

/** Lets the divider follow the range input `#divide` and the pointer over `#stage`. */
export function followPointer() {
  const [stage, divide] = [element("stage"), element("divide")];
  divide.addEventListener("input", () => {
    stage.style.setProperty("--divide", `${divide.value}%`);
    divide.setAttribute("aria-valuetext", `${Math.round(divide.value)} % from the left`);
  });
  for (const kind of ["pointerdown", "pointermove"]) {
    stage.addEventListener(kind, (event) => {
      const box = stage.getBoundingClientRect();
      divide.value = (100 * (event.clientX - box.left)) / box.width;
      divide.dispatchEvent(new Event("input"));
    });
  }
}

/** Shows the value of the range input `#sharpness`, and tells when it is dragged and when it is let go. */
export function followSharpness(dragged, released) {
  element("sharpness").addEventListener("input", (event) => {
    element("sharpness-value").textContent = Number(event.target.value).toFixed(1);
    dragged();
  });
  element("sharpness").addEventListener("change", released);
}

/** Opens what is chosen with the input `#file`, or dropped anywhere on the page. */
export function takeFiles(open) {
  element("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
    });
  }
}

/** Runs one task at a time: a newer one aborts the signal of the one before, whose errors are then not shown. */
export class Latest {
  #running = null;

  async run(task) {
    this.#running?.abort();
    const mine = (this.#running = new AbortController());
    try {
      await task(mine.signal);
    } catch (error) {
      if (!mine.signal.aborted) say(error.message, true);
    }
  }
}
