// The stage: original and reconstruction under a slider, their difference, and the map of codes; frames of a clip.

const GAIN = 8; // of differences, which are too faint to see as they are

/** A stage that shows one result at a time. */
export class Viewer {
  constructor(root, onFrame) {
    this.root = root;
    this.onFrame = onFrame;
    this.canvas = Object.fromEntries(
      [...root.querySelectorAll("canvas")].map((canvas) => [canvas.dataset.layer, canvas]),
    );
    this.slider = root.querySelector("[name=split]");
    this.slider.addEventListener("input", () => this.split());
    this.player = root.querySelector(".player");
    this.scrubber = root.querySelector("[name=frame]");
    this.scrubber.addEventListener("input", () => (this.pause(), this.show(Number(this.scrubber.value))));
    this.button = root.querySelector(".play");
    this.button.addEventListener("click", () => (this.timer ? this.pause() : this.play()));
    this.split();
  }

  split() {
    this.root.style.setProperty("--split", `${this.slider.value}%`);
  }

  /** Show a result: `pairs` uint8 (frames, height, 2 width, 3), originals left, and colours of its codes. */
  load(result) {
    this.pause();
    this.result = result;
    const { frames, height, width } = result;
    for (const name of ["original", "copy", "difference"]) Object.assign(this.canvas[name], { width, height });
    Object.assign(this.canvas.codes, { width: result.grid[2], height: result.grid[1] });
    this.root.style.setProperty("--width", width);
    this.root.style.setProperty("--height", height);
    // The grid covers whole patches; the picture is cropped to what came in.
    this.root.style.setProperty("--codes-width", (result.grid[2] * result.patch) / width);
    this.root.style.setProperty("--codes-height", (result.grid[1] * result.patch) / height);
    this.player.hidden = frames === 1;
    this.scrubber.max = frames - 1;
    this.show(0);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (frames > 1 && !still) this.play();
  }

  play() {
    const { frames, fps } = this.result;
    this.button.textContent = "Pause";
    this.timer = setInterval(() => this.show((this.frame + 1) % frames), 1000 / Math.min(fps, 60));
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
  }

  /** Return the latent frame of the frame on the stage. */
  get latentFrame() {
    return this.frame === 0 ? 0 : 1 + Math.floor((this.frame - 1) / this.result.temporalPatch);
  }

  show(frame) {
    this.frame = frame;
    const { frames, height, width, pairs, colours, grid } = this.result;
    const size = 3 * 2 * width * height;
    const pixels = pairs.subarray(frame * size, (frame + 1) * size);
    const original = new ImageData(width, height);
    const copy = new ImageData(width, height);
    const difference = new ImageData(width, height);
    let squares = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const left = 3 * (2 * width * y + x);
        const to = 4 * (width * y + x);
        for (let c = 0; c < 3; c++) {
          const a = pixels[left + c];
          const b = pixels[left + 3 * width + c];
          original.data[to + c] = a;
          copy.data[to + c] = b;
          difference.data[to + c] = GAIN * Math.abs(a - b);
          squares += (a - b) ** 2;
        }
        original.data[to + 3] = copy.data[to + 3] = difference.data[to + 3] = 255;
      }
    }
    this.paint("original", original);
    this.paint("copy", copy);
    this.paint("difference", difference);
    const positions = grid[1] * grid[2];
    const codes = new ImageData(grid[2], grid[1]);
    for (let n = 0; n < positions; n++) {
      const from = 3 * (this.latentFrame * positions + n);
      codes.data.set([colours[from], colours[from + 1], colours[from + 2], 255], 4 * n);
    }
    this.paint("codes", codes);
    this.scrubber.value = frame;
    this.scrubber.setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
    this.root.querySelector(".count").textContent = `${frame + 1} / ${frames}`;
    this.onFrame(10 * Math.log10((255 ** 2 * 3 * width * height) / squares));
  }

  paint(name, image) {
    this.canvas[name].getContext("2d").putImageData(image, 0, 0);
  }

  /** Draw a square of pixels of a layer, enlarged, into another canvas. */
  copyPatch(name, canvas, row, column, patch) {
    canvas.width = canvas.height = patch;
    canvas.getContext("2d").drawImage(this.canvas[name], column * patch, row * patch, patch, patch, 0, 0, patch, patch);
  }
}
