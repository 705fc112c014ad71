// Generate by class: a stream of events with previews, and the samples that it ends in.

import { blobOf, call, events, withQuery } from "./api.js";

/** Make the part of the page work; return how links read and set it. */
export function startGenerate(root, cards, { link, showProblem, hideProblem, reconstruct }) {
  const find = (selector) => root.querySelector(selector);
  const form = find("form");
  const stop = form.querySelector(".stop");
  let running = null;
  let drawn = null; // the seed of the samples that are shown, where the form has none

  for (const card of cards) form.model.add(new Option(`${card.id} (${card.kind === "lm" ? "language model" : "diffusion"})`, card.id));
  const card = () => cards.find(({ id }) => id === form.model.value);

  function chooseModel() {
    const { id, kind, makes, defaults, max_steps: most } = card();
    const wanted = form.kind.value;
    form.kind.replaceChildren(...makes.map((name) => new Option(name === "image" ? "a picture" : "a clip", name)));
    if (makes.includes(wanted)) form.kind.value = wanted;
    for (const label of form.querySelectorAll("[data-kind]")) {
      label.hidden = label.dataset.kind !== kind;
      label.querySelector("input").disabled = label.hidden;
    }
    for (const name of ["guidance", "temperature", "top_k", "steps"]) form[name].placeholder = defaults[name] ?? "";
    if (most) form.steps.max = most;
    listClasses(id).catch(showProblem);
  }

  async function listClasses(model) {
    const { classes } = await (await call(withQuery("classes", { model }))).json();
    find("#classes").replaceChildren(...classes.map(({ id, name }) => new Option(`class ${id}`, name)));
  }

  function settings() {
    const fields = [...form.elements].filter(({ name, value, disabled }) => name && value !== "" && !disabled);
    return Object.fromEntries(fields.map(({ name, value }) => [name, value]));
  }

  async function run() {
    running?.abort();
    const { signal } = (running = new AbortController());
    hideProblem();
    drawn = null;
    stop.hidden = false;
    find(".empty").hidden = true;
    find(".progress").hidden = false;
    find(".gallery").replaceChildren();
    say("Waiting for its turn", 0, 1);
    try {
      const response = await call(withQuery("generate", { ...settings(), preview: true }), {
        method: "POST",
        signal,
        headers: { Accept: "text/event-stream, image/png, video/mp4" },
      });
      for await (const [name, data] of events(response)) handle(name, data);
    } catch (error) {
      if (!signal.aborted) showProblem(error);
    } finally {
      if (running.signal === signal) {
        stop.hidden = find(".progress").hidden = true;
        for (const tile of find(".gallery").querySelectorAll(".preview")) tile.remove();
      }
    }
  }

  function handle(name, data) {
    if (name === "accepted") {
      drawn = data.seed;
      link();
      find(".gallery").replaceChildren(...Array.from({ length: data.samples }, () => tile("preview")));
      if (data.seconds) say(`About ${Math.ceil(data.seconds)} s`, 0, 1);
    } else if (name === "progress") {
      say(`${data.done} of ${data.total} steps`, data.done, data.total);
    } else if (name === "preview") {
      const blob = blobOf(data.pixels.data, data.pixels.media_type);
      show(find(".gallery").children[data.index], blob, "A sample that is not finished");
    } else if (name === "result") {
      finish(data);
    } else if (name === "error") {
      throw Object.assign(new Error(data.detail), { document: data });
    }
  }

  function say(text, done, total) {
    find("[role=status]").textContent = text;
    Object.assign(find("progress"), { value: done, max: total });
  }

  function tile(kind) {
    const figure = document.createElement("figure");
    figure.className = kind;
    figure.append(document.createElement("img"));
    figure.firstChild.alt = "";
    return figure;
  }

  function show(figure, blob, text) {
    const url = URL.createObjectURL(blob);
    const picture = figure.querySelector("img");
    picture.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    Object.assign(picture, { src: url, alt: text });
  }

  function finish({ index, pixels, seed, class_name: name }) {
    const type = pixels.media_type;
    const blob = blobOf(pixels.data, type);
    const url = URL.createObjectURL(blob);
    const label = `${name ?? "sample"}, seed ${seed}, number ${index + 1}`;
    const figure = document.createElement("figure");
    if (type.startsWith("video/")) {
      const video = Object.assign(document.createElement("video"), { src: url, loop: true, muted: true, controls: true, playsInline: true });
      video.autoplay = !matchMedia("(prefers-reduced-motion: reduce)").matches;
      video.setAttribute("aria-label", label);
      figure.append(video);
    } else {
      figure.append(Object.assign(document.createElement("img"), { src: url, alt: label }));
    }
    const caption = document.createElement("figcaption");
    const filename = `${label.replace(/[^\w]+/g, "-")}.${type.split("/")[1]}`;
    const save = Object.assign(document.createElement("a"), { href: url, download: filename, textContent: "Save" });
    const inspect = Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "See its codes" });
    inspect.addEventListener("click", () => reconstruct(new File([blob], filename, { type })));
    caption.append(Object.assign(document.createElement("span"), { textContent: label }), save, inspect);
    figure.append(caption);
    find(".gallery").children[index].replaceWith(figure);
  }

  form.model.addEventListener("change", chooseModel);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  stop.addEventListener("click", () => running.abort());
  if (cards.length) chooseModel();

  return {
    settings: () => ({ ...(drawn === null ? {} : { seed: drawn }), ...settings() }),
    apply: (given) => {
      if (cards.some(({ id }) => id === given.model)) form.model.value = given.model;
      chooseModel();
      for (const [name, value] of Object.entries(given)) {
        const field = form.elements.namedItem(name); // an index would find `length` too
        const fits = !field?.options || [...field.options].some((option) => option.value === value);
        if (name !== "model" && field && fits) field.value = value;
      }
    },
  };
}
