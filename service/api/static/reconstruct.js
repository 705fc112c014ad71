// Encode and decode a file: the request, the stage, the numbers.

import { call, parseCodes, parseNpy, serverTiming, withQuery } from "./api.js";
import { codebookOf, coloursOf } from "./codes.js";
import { Inspector } from "./inspector.js";
import { Viewer } from "./viewer.js";

const SAMPLES = { photograph: "igloo.jpg", clip: "flight.mp4" };
const STAGES = ["decode", "queue", "compute", "render"];
const LATENT_BITS = 32; // latents travel as float32
const PNG_FPS = 25;

/** Make the part of the page work; return how links read and set it. */
export function startReconstruct(root, cards, { link, showProblem, hideProblem }) {
  const find = (selector) => root.querySelector(selector);
  const form = find("form");
  const stage = find("#stage");
  let [file, sample, running] = [null, null, null];
  let meanPsnr = 0;

  const viewer = new Viewer(stage, (psnr) => {
    const frames = viewer.result.frames;
    find("#psnr").textContent = decibels(meanPsnr);
    find("#psnr").dataset.more = frames > 1 ? `this frame ${decibels(psnr)}` : "";
    inspector.refresh();
  });
  const inspector = new Inspector(find(".inspector"), stage, viewer);

  for (const card of cards) form.model.add(new Option(`${card.id} (${card.kind === "vq" ? `${card.codebook_size} codes` : "latents"})`, card.id));

  function options() {
    return { model: form.model.value, size: form.size.value.trim(), frames: form.frames.value };
  }

  async function run() {
    running?.abort();
    const { signal } = (running = new AbortController());
    hideProblem();
    find("#result").setAttribute("aria-busy", "true");
    try {
      await encode(signal);
      link();
    } catch (error) {
      if (signal.aborted) return;
      find(".empty").hidden = false;
      find(".shown").hidden = true;
      showProblem(error);
    } finally {
      if (!signal.aborted) find("#result").setAttribute("aria-busy", "false");
    }
  }

  async function encode(signal) {
    const card = cards.find(({ id }) => id === form.model.value);
    const type = /^(image|video)\//.test(file.type) ? file.type : "application/octet-stream";
    const request = (path, accept, more) =>
      call(withQuery(path, { ...options(), ...more }), {
        method: "POST",
        body: file,
        signal,
        headers: { "Content-Type": type, Accept: accept },
      });
    const encoded = await request("encode", "application/vnd.safetensors");
    const { meta, tokens, latents } = parseCodes(await encoded.arrayBuffer());
    const started = performance.now();
    const answer = await request("reconstruct", "application/x-npy", { side_by_side: true });
    const pairs = parseNpy(await answer.arrayBuffer());
    const elapsed = performance.now() - started;
    const codebook = card.kind === "vq" ? await codebookOf(card) : null;
    if (signal.aborted) return;
    const [frames, height, width] = pairs.shape;
    const result = {
      ...{ card, frames, height, width: width / 2, pairs: pairs.data, grid: meta.grid, fps: meta.fps ?? PNG_FPS },
      ...{ patch: card.patch, temporalPatch: card.temporal_patch, codebook, tokens: tokens?.data, latents: latents?.data },
      colours: codebook ? coloursBy(tokens.data, codebook.colours) : coloursOf(latents.data, card.latent_channels),
    };
    meanPsnr = Number(answer.headers.get("X-Omnitok-PSNR"));
    find(".empty").hidden = true;
    find(".shown").hidden = false;
    inspector.clear();
    viewer.load(result);
    describe(result, meta, serverTiming(answer), elapsed);
    if (matchMedia("(max-width: 900px)").matches) find("#result").scrollIntoView();
  }

  function describe({ card, frames, height, width, grid }, meta, timing, elapsed) {
    const positions = grid[0] * grid[1] * grid[2];
    const bits = card.kind === "vq" ? Math.log2(card.codebook_size) : LATENT_BITS * card.latent_channels;
    const perPixel = (positions * bits) / (frames * height * width);
    find("#bits").textContent = perPixel.toPrecision(3);
    find("#bits").dataset.more = `of 24, ${Math.round(24 / perPixel)} times smaller`;
    find("#grid-name").textContent = card.kind === "vq" ? "Tokens" : "Latents";
    find("#grid").textContent = positions.toLocaleString("en");
    find("#grid").dataset.more = `${grid.join(" × ")}, ${card.kind === "vq" ? `${bits} bits each` : `${card.latent_channels} numbers each`}`;
    find("#pixels").textContent = `${width} × ${height}`;
    find("#pixels").dataset.more = `${frames > 1 ? `${frames} frames, ` : ""}from ${meta.source.width} × ${meta.source.height}`;
    find("[data-layer=codes]").setAttribute("aria-label", `The map of codes, ${grid[1]} rows and ${grid[2]} columns`);
    const total = STAGES.reduce((sum, name) => sum + (timing[name] ?? 0), 0);
    find(".timing .bar").replaceChildren(
      ...STAGES.map((name) => {
        const part = document.createElement("i");
        part.dataset.stage = name;
        part.style.flexGrow = timing[name] ?? 0;
        return part;
      }),
    );
    const lines = [
      ...STAGES.map((name) => [name, timing[name] ?? 0, name]),
      ["in the service", total],
      ["round trip", elapsed],
    ];
    find(".timing ul").replaceChildren(
      ...lines.map(([text, milliseconds, stage]) => {
        const item = document.createElement("li");
        if (stage) item.dataset.stage = stage;
        item.textContent = `${text} ${milliseconds.toFixed(1)} ms`;
        return item;
      }),
    );
    const address = new URL(withQuery("reconstruct", options()), location.href.split("#")[0]).href;
    const accept = frames > 1 ? "video/mp4" : "image/png";
    find(".command pre").textContent =
      `curl -sS ${quoted(address)} -H 'Content-Type: application/octet-stream' -H 'Accept: ${accept}' ` +
      `--data-binary ${quoted(`@${file.name || "picture"}`)} -o copy.${accept.split("/")[1]}`;
  }

  function open(chosen, name = null) {
    [file, sample] = [chosen, name];
    form.querySelector(".main").disabled = false;
    find("#drop span").textContent = chosen.name ?? "The sample";
    return run();
  }

  function openChosen() {
    if (form.file.files.length) open(form.file.files[0]);
    form.file.value = "";
  }

  async function openSample(name) {
    try {
      const answer = await call(`static/${SAMPLES[name]}`);
      await open(new File([await answer.blob()], SAMPLES[name], { type: answer.headers.get("Content-Type") }), name);
    } catch (error) {
      showProblem(error);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (file) run();
  });
  form.addEventListener("change", (event) => {
    if (event.target.name === "file") openChosen();
    else if (file && form.reportValidity()) run();
  });
  for (const button of root.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", () => openSample(button.dataset.sample));
  }
  for (const radio of root.querySelectorAll("[name=view]")) {
    radio.addEventListener("change", () => {
      stage.dataset.view = radio.value;
      inspector.clear();
      link();
    });
  }
  const drop = find("#drop");
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!root.hidden && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    if (!root.hidden && event.clipboardData.files.length) open(event.clipboardData.files[0]);
  });

  openChosen(); // a file may have been chosen while the page was loading

  return {
    open,
    settings: () => ({
      ...Object.fromEntries(Object.entries(options()).filter(([, value]) => value)),
      ...(stage.dataset.view === "slider" ? {} : { view: stage.dataset.view }),
      ...(sample ? { sample } : {}),
    }),
    apply: ({ model, size = "", frames = "", view = "slider", sample: name }) => {
      if (cards.some(({ id }) => id === model)) form.model.value = model;
      Object.assign(form.size, { value: size });
      Object.assign(form.frames, { value: frames });
      root.querySelector(`[name=view][value="${CSS.escape(view)}"]`)?.click();
      if (Object.hasOwn(SAMPLES, name)) openSample(name);
    },
  };
}

/** Quote a word for a shell: whoever named the file may have meant it to run. */
function quoted(word) {
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function decibels(value) {
  return Number.isFinite(value) ? `${value.toFixed(2)} dB` : "exact";
}

function coloursBy(tokens, palette) {
  const colours = new Uint8ClampedArray(3 * tokens.length);
  tokens.forEach((code, n) => colours.set(palette.subarray(3 * code, 3 * code + 3), 3 * n));
  return colours;
}
