// The page: tabs, theme, links, keys and refusals around its two parts.

import { call, onKeyNeeded } from "./api.js";
import { startGenerate } from "./generate.js";
import { startReconstruct } from "./reconstruct.js";

const THEME = "omnitok-theme";
const $ = (selector) => document.querySelector(selector);
const tabs = [...document.querySelectorAll("[role=tab]")];

/** Put a sentence into an element, with what is between backticks as code. */
function write(element, sentence) {
  const parts = sentence.split(/`([^`]+)`/); // every second one was between backticks
  const nodes = parts.map((text, n) => (n % 2 ? Object.assign(document.createElement("code"), { textContent: text }) : text));
  element.replaceChildren(...nodes);
}

/** Show a refusal in the service's own words. */
function showProblem(error) {
  if (error.name === "AbortError") return;
  const { title, detail, errors = [], code, request_id: id } = error.document ?? { title: "The page failed", detail: String(error) };
  const box = $("#problem");
  box.querySelector("strong").textContent = title;
  write(box.querySelector("p"), detail);
  box.querySelector("ul").replaceChildren(
    ...errors.map(({ pointer, detail: reason }) => {
      const item = document.createElement("li");
      write(item, `${pointer.replace("/", "")}: ${reason}`);
      return item;
    }),
  );
  box.querySelector("small").textContent = code ? `${code}, request ${id}` : "";
  box.hidden = false;
  box.scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  $("#problem").hidden = true;
}

function shownTabs() {
  return tabs.filter(({ hidden }) => !hidden);
}

function choose(name) {
  for (const tab of tabs) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    $(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
  }
}

function chosen() {
  return tabs.find((tab) => tab.getAttribute("aria-selected") === "true").getAttribute("aria-controls");
}

function link() {
  const tab = chosen();
  history.replaceState({ tab }, "", `#${new URLSearchParams({ tab, ...parts[tab]?.settings() })}`);
  return location.href;
}

/** Choose a tab; the browser's back button leads to the one before. */
function visit(name) {
  if (name === chosen()) return;
  choose(name);
  history.pushState({ tab: name }, "");
  link();
}

function open() {
  const { tab, ...settings } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!shownTabs().some((shown) => shown.getAttribute("aria-controls") === tab)) return;
  choose(tab);
  parts[tab].apply(settings);
}

async function copyLink(event) {
  const address = link();
  try {
    await navigator.clipboard.writeText(address);
    event.target.textContent = "Copied";
  } catch {
    event.target.textContent = "It is in the address bar"; // pages without TLS may not write to the clipboard
  }
  setTimeout(() => (event.target.textContent = "Copy link"), 2000);
}

function useTheme(theme) {
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("#theme").textContent = dark ? "Light" : "Dark";
}

function askForKey(problem) {
  const dialog = $("#key-dialog");
  write(dialog.querySelector("p"), problem.message);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const field = dialog.querySelector("[name=key]");
        const key = dialog.returnValue === "use" ? field.value.trim() : "";
        field.value = "";
        resolve(key || null);
      },
      { once: true },
    );
  });
}

for (const tab of tabs) {
  tab.addEventListener("click", () => visit(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const shown = shownTabs();
    const next = shown[(shown.indexOf(tab) + 1) % shown.length];
    next.focus();
    next.click();
  });
}
$("#problem button").addEventListener("click", hideProblem);
$("#share").addEventListener("click", copyLink);
$("#theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  useTheme(theme);
});
useTheme(localStorage.getItem(THEME));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => useTheme(localStorage.getItem(THEME)));
onKeyNeeded(askForKey);

const parts = {};
try {
  const served = await (await call("models")).json();
  const [{ device, dtype }] = served.models;
  $("#served").textContent = `Served here: ${served.data.map(({ id }) => id).join(", ")} on ${device} in ${dtype}.`;
  const shown = { link, showProblem, hideProblem };
  parts.reconstruct = startReconstruct($("#reconstruct"), served.models, shown);
  parts.generate = startGenerate($("#generate"), served.generators, {
    ...shown,
    reconstruct: (file) => (visit("reconstruct"), parts.reconstruct.open(file)),
  });
  tabs[1].hidden = served.generators.length === 0;
  open();
  history.replaceState({ tab: chosen() }, "");
  addEventListener("hashchange", () => (history.state ? choose(history.state.tab) : open())); // none of a link
} catch (error) {
  showProblem(error);
}
