/* What the gallery and the live page share: elements made of text alone, maps in colors, controls, numbers.

   A plain script: one global, `Saliency`. Text of files and servers reaches the page as text nodes only.
   Maps come as gray pictures (saliency_client/web/map_picture.py); an SVG filter gives them their colors, so no
   pixel is ever read: a page from disk may not read any. */
"use strict";

const Saliency = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("page-data").textContent);

  /* ---- elements ------------------------------------------------------------------------------------------- */

  /** An element. attributes: {class, text, on: {event: function}, style: {property: value}, …}; children:
      elements and strings, which become text nodes; null and false are passed over. */
  function h(tag, attributes, ...children) {
    return filled(document.createElement(tag), attributes, children);
  }

  function svg(tag, attributes, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
  }

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
      else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
      else if (name === "text") element.textContent = value;
      else element.setAttribute(name, value === true ? "" : String(value));
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  let made = 0;
  const newId = (kind) => `${kind}-${(made += 1)}`;

  /** The URL of a picture: of a file beside the page, or of what the page itself holds. */
  function url(name) {
    const held = document.getElementById(name);
    if (!held || held.tagName !== "SCRIPT") return name;
    return `data:image/${name.endsWith(".png") ? "png" : "jpeg"};base64,${held.textContent}`;
  }

  /* ---- icons: lines of 24 x 24, drawn in the color of the text ---------------------------------------------- */

  const ICONS = {
    light: "M12 4V2M12 22v-2M4 12H2M22 12h-2M6.3 6.3 4.9 4.9M19.1 19.1l-1.4-1.4M6.3 17.7l-1.4 1.4M19.1 4.9l-1.4 1.4M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z",
    dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
    copy: "M9 9h11v11H9zM5 15H4V4h11v1",
    done: "m5 12.5 4.5 4.5L19 7.5",
    close: "M6 6l12 12M18 6 6 18",
    before: "m15 5-7 7 7 7",
    after: "m9 5 7 7-7 7",
    filter: "M4 6h16M7 12h10M10 18h4",
    up: "M12 19V5M6 11l6-6 6 6",
    down: "M12 5v14M6 13l6 6 6-6",
    download: "M12 4v11M7 10.5l5 5 5-5M4 20h16",
    photo: "M4 5h16v14H4zM4 16l5-5 4 4 2.5-2.5L20 17M15.5 9.5h.01",
  };

  function icon(name) {
    return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
      svg("path", { d: ICONS[name] }));
  }

  function button(text, { icon: drawn, primary, quiet, label, ...attributes } = {}, click) {
    const kind = `button${primary ? " primary" : ""}${quiet ? " quiet" : ""}${text ? "" : " bare"}`;
    return h("button", { type: "button", class: kind, "aria-label": label, title: text ? null : label,
      on: click ? { click } : null, ...attributes }, drawn ? icon(drawn) : null, text ? h("span", { text }) : null);
  }

  /* ---- the page --------------------------------------------------------------------------------------------- */

  const live = h("div", { class: "visually-hidden", "aria-live": "polite" });

  /** Tell those who do not see. */
  function announce(text) {
    live.textContent = text;
  }

  function stored(name, value) {
    // A page from disk may have no storage.
    try {
      if (value === undefined) return localStorage.getItem(`saliency-${name}`);
      localStorage.setItem(`saliency-${name}`, value);
    } catch { /* it is asked again the next time */ }
    return null;
  }

  function isDark() {
    return (document.documentElement.dataset.theme ||
      (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  }

  function themeToggle() {
    const toggle = button("", { label: "Dark or light", class: "button bare quiet" }, () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      stored("theme", document.documentElement.dataset.theme);
      show();
    });
    const show = () => {
      toggle.replaceChildren(icon(isDark() ? "light" : "dark"));
      toggle.setAttribute("aria-label", isDark() ? "Light colors" : "Dark colors");
      toggle.title = toggle.getAttribute("aria-label");
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
    show();
    return toggle;
  }

  /** The top of a page. */
  function header({ title, subtitle, actions = [] }) {
    return h("header", { class: "top" },
      h("div", { class: "titles" }, h("h1", { text: title }), subtitle ? h("p", { text: subtitle }) : null),
      h("div", { class: "actions" }, actions, themeToggle()));
  }

  /** Put the parts of a page into it. */
  function start(...parts) {
    const theme = stored("theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    const page = document.getElementById("page");
    page.className = "page";
    page.replaceChildren(...parts);
    document.body.append(live, filters, tip);
  }

  /* ---- maps in colors --------------------------------------------------------------------------------------- */

  const GRAYS = "0.299 0.587 0.114 0 0 ";
  const filters = svg("svg", { class: "filters", width: 0, height: 0, "aria-hidden": "true" },
    // The photo in grays, as saliency_client/render.py draws it.
    filter("photo-gray", matrix(GRAYS.repeat(3) + "0 0 0 1 0")));
  const MOST_FILTERS = 60;
  const known = new Map();

  function filter(id, ...parts) {
    return svg("filter", { id, x: 0, y: 0, width: 1, height: 1, "color-interpolation-filters": "sRGB" }, ...parts);
  }

  function matrix(values, attributes) {
    return svg("feColorMatrix", { type: "matrix", values, ...attributes });
  }

  /** Where each of a picture's 256 levels stands on a scale: 0 to 1, or -1 to 1 of a map with signs. */
  function positions({ signed, low, high }, range) {
    const bottom = range && !signed ? range.low : signed ? 0 : low;
    const span = (range ? range.high : high) - bottom;
    return Array.from({ length: 256 }, (_, level) => {
      const own = signed ? Math.max(-1, (level - 128) / 127) : level / 255;
      if (!range) return own;
      const value = signed ? own * high : low + own * (high - low);
      return span > 0 ? Math.min(1, Math.max(signed ? -1 : 0, (value - bottom) / span)) : 0;
    });
  }

  function hexes(look, signed) {
    const tables = signed ? data.colors.diverging : data.colors.sequential;
    const name = signed ? look.diverging : look.sequential;
    return tables[name] || Object.values(tables)[0];
  }

  /** The id of the filter that gives a map its colors, as saliency_client/render.py does, and its opacity. */
  function colored(map, look) {
    const range = look.range || null;
    const scale = range ? [map.low, map.high, range.low, range.high] : [];
    const key = [map.signed, look.style === "heatmap", look.sequential, look.diverging, ...scale].join();
    const id = known.get(key);
    if (id) {
      known.delete(key);
      known.set(key, id);
      return id;
    }
    const places = positions(map, range);
    const table = hexes(look, map.signed);
    const indices = places.map((place) => Math.round((map.signed ? (place + 1) / 2 : place) * 255));
    const channel = (offset) => indices
      .map((index) => (parseInt(table.substr(6 * index + offset, 2), 16) / 255).toFixed(4)).join(" ");
    const alike = look.style === "heatmap";
    const one = (name, tableValues) => svg(name, { type: "discrete", tableValues });
    // A picture is opaque. Its level becomes its alpha, from a half up: below, colors would lose their bits to it.
    const levels = (index) => [2 * index - 256, 2 * index - 255].map((level) => Math.abs(places[Math.max(0, level)]));
    const alphas = places.map((_, index) => (index < 127 ? 0 : levels(index).reduce((one, other) => one + other) / 2).toFixed(4)).join(" ");
    const drawn = filter(newId("map"),
      alike ? null : matrix("1 0 0 0 0 0 1 0 0 0 0 0 1 0 0 0.5 0 0 0.5 0"),
      svg("feComponentTransfer", {}, one("feFuncR", channel(0)), one("feFuncG", channel(2)), one("feFuncB", channel(4)),
        alike ? null : one("feFuncA", alphas)));
    filters.append(drawn);
    known.set(key, drawn.id);
    for (const [old, oldId] of known) {
      if (known.size <= MOST_FILTERS) break;
      // What is shown at the moment keeps its filter.
      if (document.querySelector(`[data-filter="${oldId}"]`)) continue;
      document.getElementById(oldId)?.remove();
      known.delete(old);
    }
    return drawn.id;
  }

  /** The scale that several maps have in common. */
  function commonRange(maps) {
    return { low: Math.min(...maps.map((map) => map.low)), high: Math.max(...maps.map((map) => map.high)) };
  }

  const DEFAULT_LOOK = Object.freeze({ opacity: 0.9, style: "overlay", photoColors: false, signed: false,
    common: false, sequential: Object.keys(data.colors.sequential)[0],
    diverging: Object.keys(data.colors.diverging)[0], range: null });

  /** A photo with a map over it.

      photo: URL of the picture, of width x height pixels; box: [left, top, right, bottom] of the part that the map
      covers, in these pixels; map: {src, signed, low, high} or null; look: see DEFAULT_LOOK. */
  function mapView({ photo, width, height, box, alt, map = null, look = DEFAULT_LOOK, className = "", lazy = false }) {
    const picture = (kind) => h("img", { class: kind, alt: "", draggable: "false", decoding: "async",
      loading: lazy ? "lazy" : null });
    const pale = picture("photo pale"), seen = picture("photo seen"), drawn = picture("map");
    const element = h("div", { class: `map-view ${className}`, role: "img", "aria-label": alt }, pale, seen, drawn);

    function setPhoto(next) {
      ({ photo, width, height, box } = { photo, width, height, box, ...next });
      const [left, top, right, bottom] = box || [0, 0, width, height];
      const percent = (part, whole) => `${(100 * part) / whole}%`;
      element.style.setProperty("aspect-ratio", `${width} / ${height}`);
      element.classList.toggle("pixels", Math.max(width, height) <= 128);
      const whole = left <= 0 && top <= 0 && right >= width && bottom >= height;
      pale.hidden = whole;
      pale.src = whole ? "" : photo;
      if (whole) pale.removeAttribute("src");
      seen.src = photo;
      seen.style.setProperty("clip-path", whole ? "none" : `inset(${percent(Math.max(0, top), height)} ` +
        `${percent(Math.max(0, width - right), width)} ${percent(Math.max(0, height - bottom), height)} ` +
        `${percent(Math.max(0, left), width)})`);
      drawn.style.setProperty("left", percent(left, width));
      drawn.style.setProperty("top", percent(top, height));
      drawn.style.setProperty("width", percent(right - left, width));
      drawn.style.setProperty("height", percent(bottom - top, height));
    }

    function setMap(next) {
      map = next;
      drawn.hidden = !map || look.style === "photo";
      if (!map) return;
      if (drawn.getAttribute("src") !== map.src) drawn.src = map.src;
      const id = colored(map, look);
      drawn.dataset.filter = id;
      drawn.style.setProperty("filter", `url("#${id}")`);
      setLook(look);
    }

    function setLook(next) {
      const other = next !== look;
      look = next;
      seen.classList.toggle("gray", !(look.photoColors || look.style === "photo" || !map));
      drawn.style.setProperty("opacity", String(look.opacity));
      if (other) setMap(map);
    }

    setPhoto({});
    setMap(map);
    setLook(look);
    return { element, setPhoto, setMap, setLook, setAlt: (text) => element.setAttribute("aria-label", text) };
  }

  /** The scale of a map: its colors, and the values at its ends. */
  function legend(map, look) {
    const range = look.range || map, table = hexes(look, map.signed);
    const stops = Array.from({ length: 17 }, (_, step) => `#${table.substr(6 * Math.round(step * 15.9375), 6)}`);
    // What is a thousandth of the scale is as good as 0 on it.
    const low = map.signed ? -range.high : Math.abs(range.low) < 1e-3 * range.high ? 0 : range.low;
    const about = map.signed ? "blue lowers the score, red raises it" : "from the coldest to the hottest value";
    return h("div", { class: "legend", role: "img",
      "aria-label": `Scale from ${short(low)} to ${short(range.high)}`, title: about },
    h("span", { text: short(low) }),
    h("span", { class: "bar", style: { background: `linear-gradient(to right, ${stops.join(", ")})` } }),
    h("span", { text: short(range.high) }));
  }

  /* ---- controls --------------------------------------------------------------------------------------------- */

  function segmented({ label, options, value, onChange, hideLabel = false }) {
    const name = newId("choice");
    const element = h("fieldset", { class: "segmented field" },
      h("legend", { class: hideLabel ? "visually-hidden" : "label", text: label }),
      h("div", { class: "segments" }, options.map((option) => {
        const input = h("input", { type: "radio", name, value: option.value, checked: option.value === value,
          disabled: option.disabled, on: { change: () => onChange(option.value) } });
        return h("label", { title: option.title }, input, h("span", { text: option.text }));
      })));
    element.set = (next) => {
      for (const input of element.querySelectorAll("input")) input.checked = input.value === next;
    };
    element.enable = (which, enabled) => {
      element.querySelector(`input[value="${which}"]`).disabled = !enabled;
    };
    return element;
  }

  function slider({ label, min = 0, max = 1, step = 0.01, value, format: shown = String, onInput }) {
    const id = newId("slider");
    const output = h("output", { for: id, text: shown(value) });
    const input = h("input", { type: "range", id, min, max, step, on: { input: () => {
      output.textContent = shown(input.valueAsNumber);
      input.setAttribute("aria-valuetext", output.textContent);
      onInput(input.valueAsNumber);
    } } });
    input.value = value;
    input.setAttribute("aria-valuetext", output.textContent);
    const element = h("div", { class: "field slider" },
      h("div", { class: "label" }, h("label", { for: id, text: label }), output), input);
    element.set = (next) => {
      input.value = next;
      output.textContent = shown(Number(next));
    };
    element.input = input;
    return element;
  }

  function select({ label, options, value, onChange, hideLabel = false }) {
    const id = newId("select");
    const input = h("select", { id, on: { change: () => onChange(input.value) } });
    const element = h("div", { class: "field" },
      h("label", { for: id, class: hideLabel ? "visually-hidden" : "label", text: label }),
      h("div", { class: "select" }, input));
    element.options = (next) => input.replaceChildren(
      ...next.map((option) => h("option", { value: option.value, text: option.text })));
    element.set = (next) => { input.value = next; };
    element.options(options);
    input.value = value;
    element.input = input;
    return element;
  }

  function toggle({ label, checked, onChange }) {
    const input = h("input", { type: "checkbox", role: "switch", checked, on: { change: () => onChange(input.checked) } });
    const element = h("label", { class: "toggle" }, input, h("span", { class: "track" }), h("span", { text: label }));
    element.set = (next) => { input.checked = next; };
    return element;
  }

  /** Everything that changes how maps are shown, and asks nobody for anything. */
  function lookControls({ look = DEFAULT_LOOK, hasSigned = true, several = false, onChange }) {
    let now = { ...look };
    const change = (part) => {
      now = { ...now, ...part };
      controls.look = now;
      onChange(now);
    };
    const options = (kind) => Object.keys(data.colors[kind]).map((name) => ({ value: name, text: name }));
    const style = segmented({ label: "Map", value: now.style, onChange: (value) => {
      opacity.input.disabled = value === "photo";
      change({ style: value });
    }, options: [{ value: "overlay", text: "Over photo", title: "Stronger where the map is hotter" },
      { value: "heatmap", text: "Alone", title: "The same strength everywhere" },
      { value: "photo", text: "Photo" }] });
    const opacity = slider({ label: "Opacity", value: now.opacity, format: (value) => `${Math.round(100 * value)} %`,
      onInput: (value) => change({ opacity: value }) });
    const colors = h("div", { class: "colors" });
    const showColors = () => {
      const kind = now.signed ? "diverging" : "sequential";
      colors.replaceChildren(select({ label: "Colors", options: options(kind), value: now[kind],
        onChange: (value) => change({ [kind]: value }) }));
    };
    const sign = segmented({ label: "Values", value: now.signed ? "signed" : "absolute", onChange: (value) => {
      change({ signed: value === "signed" });
      showColors();
    }, options: [{ value: "absolute", text: "Absolute", title: "How much each place counts" },
      { value: "signed", text: "Signed", title: "Red raises the score, blue lowers it" }] });
    const scale = segmented({ label: "Scale", value: now.common ? "common" : "own",
      onChange: (value) => change({ common: value === "common" }),
      options: [{ value: "own", text: "Each its own" }, { value: "common", text: "One for all" }] });
    showColors();
    const element = h("div", { class: "look" }, style, opacity, sign, several ? scale : null, colors,
      toggle({ label: "Photo in color", checked: now.photoColors, onChange: (value) => change({ photoColors: value }) }));
    const controls = { element, look: now,
      setSigned: (available) => sign.enable("signed", available) };
    sign.enable("signed", hasSigned);
    return controls;
  }

  /* ---- numbers and their meaning ---------------------------------------------------------------------------- */

  const PERCENTS = new Set(["probability"]);

  /** A number of the data; "inf" is infinity. */
  function number(value) {
    return value === "inf" ? Infinity : value === "-inf" ? -Infinity : value;
  }

  function short(value) {
    const real = number(value);
    if (real === null || real === undefined || Number.isNaN(real)) return "–";
    if (!Number.isFinite(real)) return real > 0 ? "∞" : "−∞";
    const size = Math.abs(real);
    const text = Number.isInteger(real) && size < 1e6 ? String(real)
      : size >= 1e5 || (size < 1e-3 && size > 0) ? real.toExponential(1)
        : size >= 100 ? real.toFixed(0) : size >= 10 ? real.toFixed(1) : real.toFixed(size >= 0.1 || size === 0 ? 2 : 3);
    return text.replace("-", "−");
  }

  /** A number as people read it. */
  function format(name, value) {
    const real = number(value);
    if (PERCENTS.has(name) && typeof real === "number") return `${(100 * real).toFixed(1)} %`;
    if (name === "milliseconds" && typeof real === "number") return `${real.toFixed(0)} ms`;
    return short(value);
  }

  function meaning(name) {
    const one = Object.hasOwn(data.meanings, name) ? data.meanings[name] : null;
    return one || { title: name.replaceAll("_", " "), meaning: "A number that the method gives for the image.", better: null };
  }

  const tip = h("div", { class: "tip", role: "tooltip", id: "tip", popover: "manual" });
  let tipOf = null;

  function showTip(owner, title, text) {
    tipOf = owner;
    tip.replaceChildren(h("strong", { text: title }), h("span", { text }));
    tip.showPopover?.();
    const at = owner.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left + at.width / 2 - size.width / 2, innerWidth - size.width - 8));
    const above = at.top - size.height - 8;
    tip.style.setProperty("left", `${left}px`);
    tip.style.setProperty("top", `${above > 8 ? above : at.bottom + 8}px`);
    owner.setAttribute("aria-describedby", "tip");
  }

  function hideTip() {
    tipOf?.removeAttribute("aria-describedby");
    tipOf = null;
    tip.hidePopover?.();
  }

  addEventListener("scroll", () => tipOf && hideTip(), { capture: true, passive: true });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && tipOf) {
      hideTip();
      event.stopImmediatePropagation();
      event.preventDefault();
    }
  }, { capture: true });

  /** A number whose meaning is told where it is pointed at, focused or touched. */
  function numberView(name, value, { text = format(name, value), title = meaning(name).title } = {}) {
    const { meaning: about, better } = meaning(name);
    const told = about + (better ? ` ${better[0].toUpperCase()}${better.slice(1)} is better.` : "");
    const show = () => showTip(element, meaning(name).title, told);
    const element = h("button", { type: "button", class: "number",
      on: { mouseenter: show, focus: show, click: show, mouseleave: () => document.activeElement === element || hideTip(),
        blur: hideTip } }, h("span", { class: "name", text: title }), h("span", { class: "value", text }));
    return element;
  }

  /* ---- commands --------------------------------------------------------------------------------------------- */

  /** A word for a POSIX shell. */
  function shellWord(word) {
    return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`;
  }

  async function copied(text, area) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Where there is no clipboard, as on a page from disk in some browsers.
      const range = document.createRange();
      range.selectNodeContents(area);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      return document.execCommand("copy");
    }
    return true;
  }

  /** Text to be copied. */
  function command(text, { label }) {
    const id = newId("command");
    const area = h("pre", { tabindex: 0, "aria-labelledby": id }, h("code", { text }));
    const copy = button("Copy", { icon: "copy", quiet: true }, async () => {
      const done = await copied(text, area);
      copy.replaceChildren(icon(done ? "done" : "copy"), h("span", { text: done ? "Copied" : "Selected" }));
      announce(done ? "Copied" : "The text is selected");
      setTimeout(() => copy.replaceChildren(icon("copy"), h("span", { text: "Copy" })), 1500);
    });
    return h("figure", { class: "command" }, h("figcaption", {}, h("span", { id, text: label }), copy), area);
  }

  return { data, h, svg, icon, button, url, announce, header, start, mapView, commonRange, legend, lookControls,
    DEFAULT_LOOK, segmented, slider, select, toggle, number: numberView, numeric: number, format, meaning, command,
    shellWord, newId };
})();
