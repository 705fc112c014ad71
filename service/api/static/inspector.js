// The panel that explains one code of the map: what it stands for, where it occurs, and its neighbours.

import { neighbours, patchOf } from "./codes.js";

const PAUSE_MS = 90; // of the pointer, before the decoder is asked

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** The panel beside the stage. */
export class Inspector {
  constructor(panel, stage, viewer) {
    this.panel = panel;
    this.viewer = viewer;
    this.cursor = stage.querySelector(".cursor");
    this.map = stage.querySelector("[data-layer=codes]");
    this.map.addEventListener("pointermove", (event) => this.point(event));
    this.map.addEventListener("pointerdown", (event) => this.point(event));
    this.map.addEventListener("keydown", (event) => this.move(event));
    this.map.addEventListener("focus", () => {
      if (!this.place && this.map.matches(":focus-visible")) this.select(0, 0);
    });
  }

  clear() {
    this.place = this.code = null;
    this.cursor.hidden = true;
    this.panel.querySelector(".hint").hidden = false;
    this.panel.querySelector(".code").hidden = true;
  }

  point(event) {
    const { grid } = this.viewer.result;
    const box = this.map.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * grid[1]);
    const column = Math.floor(((event.clientX - box.left) / box.width) * grid[2]);
    this.select(row, column);
  }

  move(event) {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const [row, column] = this.place ?? [0, 0];
    this.select(row + move[0], column + move[1]);
  }

  /** Show the code at a place of the present frame; places outside the map are those at its edge. */
  select(row, column) {
    const { grid } = this.viewer.result;
    this.place = [Math.min(Math.max(row, 0), grid[1] - 1), Math.min(Math.max(column, 0), grid[2] - 1)];
    this.refresh();
  }

  /** Show the chosen place again, of another frame perhaps. */
  refresh() {
    if (!this.place) return;
    const { result, latentFrame } = this.viewer;
    const [row, column] = this.place;
    const [, rows, columns] = result.grid;
    this.cursor.hidden = false;
    this.cursor.style.setProperty("--row", row / rows);
    this.cursor.style.setProperty("--column", column / columns);
    this.cursor.style.setProperty("--rows", rows);
    this.cursor.style.setProperty("--columns", columns);
    this.panel.querySelector(".hint").hidden = true;
    this.panel.querySelector(".code").hidden = false;
    for (const crop of this.panel.querySelectorAll("[data-crop]")) {
      this.viewer.copyPatch(crop.dataset.crop, crop, row, column, result.patch);
    }
    const position = (latentFrame * rows + row) * columns + column;
    if (result.tokens) this.showToken(result, position, row, column);
    else this.showLatent(result, position, row, column);
  }

  named(row, column) {
    const { grid } = this.viewer.result;
    const time = grid[0] > 1 ? `latent frame ${this.viewer.latentFrame + 1} of ${grid[0]}, ` : "";
    return `${time}row ${row + 1}, column ${column + 1}`;
  }

  showToken({ card, codebook, tokens }, position, row, column) {
    const code = tokens[position];
    const uses = tokens.reduce((sum, other) => sum + (other === code), 0);
    this.panel.querySelector("h2").textContent = `Code ${code}`;
    this.panel.querySelector(".where").textContent =
      `${this.named(row, column)}; ${uses === 1 ? "used once" : `used ${uses} times`} of ${tokens.length}`;
    this.panel.querySelector(".values").hidden = true;
    this.panel.querySelector(".near").hidden = this.panel.querySelector(".alone").hidden = false;
    if (code === this.code) return;
    this.code = code;
    const near = neighbours(codebook, code);
    this.panel.querySelector("ol").replaceChildren(
      ...near.map(([other, distance]) => {
        const item = document.createElement("li");
        const picture = Object.assign(document.createElement("img"), { alt: "" });
        picture.dataset.code = other;
        const swatch = document.createElement("i");
        swatch.style.background = `rgb(${codebook.colours.slice(3 * other, 3 * other + 3).join(" ")})`;
        item.append(picture, swatch, ` ${other} `, Object.assign(document.createElement("small"), { textContent: distance.toFixed(3) }));
        return item;
      }),
    );
    const alone = this.panel.querySelector(".alone img");
    alone.removeAttribute("src");
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.showPatches(card, code), PAUSE_MS);
  }

  async showPatches(card, code) {
    for (const picture of this.panel.querySelectorAll(".alone img, ol img")) {
      try {
        const url = await patchOf(card, Number(picture.dataset.code ?? code));
        if (code !== this.code) return;
        picture.src = url;
      } catch {
        return; // the service is busy; the numbers stay
      }
    }
  }

  showLatent({ card, latents }, position, row, column) {
    const width = card.latent_channels;
    this.panel.querySelector("h2").textContent = `${width} numbers`;
    this.panel.querySelector(".where").textContent = this.named(row, column);
    this.panel.querySelector(".near").hidden = this.panel.querySelector(".alone").hidden = true;
    const values = this.panel.querySelector(".values");
    values.hidden = false;
    values.replaceChildren(
      ...Array.from(latents.subarray(position * width, (position + 1) * width)).flatMap((value, channel) => [
        Object.assign(document.createElement("dt"), { textContent: channel + 1 }),
        Object.assign(document.createElement("dd"), { textContent: value.toFixed(3) }),
      ]),
    );
  }
}
