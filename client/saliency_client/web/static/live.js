/* The live page: a photo, what the model sees in it, and up to two maps beside one another.

   A plain script over `Saliency` (viewer.js). All text of files and servers becomes text nodes. */
"use strict";

(() => {
  const S = Saliency;
  const { h } = S;
  const POLL_SECONDS = 4;
  const OWN_HEADER = { "X-Saliency-Page": "1" };
  const spoken = (name) => name.replaceAll("_", " ");

  const state = {
    offer: null, // what the model offers: {model, serves, choices}
    photo: null, // {id, file, name, size, view, notes}
    classes: [],
    wanted: null, // a class by number or name; null: the predicted one
    look: S.DEFAULT_LOOK,
    lenses: [],
    reading: null, // AbortController of the photo that is being read
    down: null, // why nothing answers
  };

  /* ---- asking ------------------------------------------------------------------------------------------------ */

  /** An error that the page's program told, or that it is not there. */
  class Told extends Error {
    constructor({ error, hint = null, gone = false, down = false, field = null }, seconds = 0) {
      super(error);
      Object.assign(this, { hint, gone, down, field, seconds });
    }
  }

  async function ask(path, { json, body, headers = {}, signal, method } = {}) {
    let answer;
    try {
      answer = await fetch(path, {
        method: method || (json || body ? "POST" : "GET"),
        body: json ? JSON.stringify(json) : body,
        headers: { ...(json || body ? OWN_HEADER : {}), ...(json ? { "Content-Type": "application/json" } : {}), ...headers },
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Told({ error: "The program of this page does not answer.",
        hint: "It was ended, or the way to it is broken; `saliency-client page` starts it again.", down: true });
    }
    if (answer.ok) return answer;
    const told = await answer.json().catch(() => ({ error: `The page answered ${answer.status}.` }));
    throw new Told(told, answer.status === 503 ? Number(answer.headers.get("Retry-After")) || 2 : 0);
  }

  const wait = (seconds, signal) => new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    });
  });

  /** Ask; where the page is busy, again, as often as it says. */
  async function askPatiently(path, options, onBusy) {
    for (;;) {
      try {
        return await ask(path, options);
      } catch (error) {
        if (!error.seconds) throw error;
        onBusy?.(error);
        await wait(error.seconds, options?.signal);
      }
    }
  }

  async function* lines(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n");
      text = parts.pop();
      for (const part of parts) yield JSON.parse(part);
    }
  }

  /* ---- what is shown ------------------------------------------------------------------------------------------ */

  const banner = h("div", { class: "notice error banner", role: "alert", hidden: true });
  const connection = h("span", { class: "chip connection" });
  const photoPanel = h("section", { class: "panel photo-panel", "aria-label": "Photo" });
  const classPanel = h("section", { class: "panel class-panel", "aria-labelledby": "classes" });
  const lookPanel = h("section", { class: "panel look-panel", "aria-label": "How maps are drawn" });
  const stage = h("main", { class: "stage" });
  const layout = h("div", { class: "live" }, h("div", { class: "side" }, photoPanel, classPanel, lookPanel), stage);

  const file = h("input", { type: "file", id: "file", class: "visually-hidden", accept: "image/*,.npy,.tif,.tiff,.heic",
    on: { change: () => {
      if (file.files.length) readPhoto(file.files[0]);
      file.value = "";
    }, keydown: (event) => {
      // Browsers open their dialog at Space; a person may press Enter.
      if (event.key !== "Enter") return;
      event.preventDefault();
      file.click();
    } } });

  function choosePhoto(text, primary) {
    // A label of the field: a click, Enter and Space open the browser's own dialog.
    return h("label", { class: `button${primary ? " primary" : ""} choose`, for: "file" }, S.icon("photo"), h("span", { text }));
  }

  function failure(error) {
    return h("div", { class: "notice error", role: "alert" }, h("strong", { text: sentence(error.message) }),
      error.hint ? h("p", { text: sentence(error.hint) }) : null);
  }

  const capital = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");
  // A name that a sentence begins with stays as it is.
  const isName = (text) => /^\S*[._/]\S/.test(text);
  const sentence = (text) => (text ? (isName(text) ? text : capital(text)) + (/[.!?]$/.test(text) ? "" : ".") : "");

  /* ---- whether the server answers ------------------------------------------------------------------------------ */

  function setDown(error) {
    const was = state.down;
    state.down = error;
    banner.hidden = !error;
    if (error && (!was || was.message !== error.message)) {
      banner.replaceChildren(h("strong", { text: sentence(error.message) }), " ",
        h("span", { text: `${sentence(error.hint || "")} This page asks again every ${POLL_SECONDS} seconds.` }));
    }
    connection.textContent = error ? "not connected" : "connected";
    connection.classList.toggle("good", !error);
    connection.classList.toggle("wrong", Boolean(error));
    if (was && !error) {
      S.announce("The server answers again");
      recover();
    }
  }

  async function poll() {
    for (;;) {
      if (!document.hidden || !state.offer) {
        try {
          const told = await (await ask("api/state")).json();
          if (!state.offer || state.down || told.serves !== state.offer.serves) await loadOffer();
          setDown(null);
        } catch (error) {
          if (error instanceof Told) setDown(error);
        }
      }
      await wait(state.down ? POLL_SECONDS / 2 : POLL_SECONDS);
    }
  }

  function recover() {
    if (state.photo?.file && !state.photo.id) readPhoto(state.photo.file);
    else for (const lens of state.lenses) if (lens.missed) lens.explain();
    if (state.photo?.id && !state.classes.length) loadClasses();
  }

  async function loadOffer() {
    const offer = await (await ask("api/model")).json();
    const first = !state.offer, other = !first && state.offer.serves !== offer.serves;
    state.offer = offer;
    showTitle();
    if (first) {
      state.lenses = [makeLens({})];
      showStage();
      showLook();
      // A photo may have been read before.
      state.lenses[0].explain();
    } else {
      for (const lens of state.lenses) lens.offered();
      if (other) S.announce("The model's versions have changed");
    }
  }

  function showTitle() {
    const [first] = state.offer.choices;
    const parts = [first.text, first.classes ? `${first.classes.toLocaleString("en")} classes` : null, first.size.join(" × ")];
    top.querySelector("h1").textContent = state.offer.model;
    top.querySelector("p").textContent = parts.filter(Boolean).join(" · ");
  }

  /* ---- the photo ----------------------------------------------------------------------------------------------- */

  async function readPhoto(chosen) {
    state.reading?.abort();
    const reading = (state.reading = new AbortController());
    for (const lens of state.lenses) lens.stop();
    const [before, classesBefore] = [state.photo, state.classes];
    state.photo = { file: chosen, name: chosen.name || "photo.png", id: null };
    state.classes = [];
    state.wanted = null;
    showReading();
    try {
      if (chosen.size > S.data.mostBytes) {
        const size = `${(chosen.size / 2 ** 20).toFixed(1)} MB`;
        throw new Told({ error: `the file has ${size}, and the page takes up to ${Math.round(S.data.mostBytes / 2 ** 20)} MB`,
          hint: "save it smaller, or as JPEG; `saliency-client explain` takes files of any size" });
      }
      await upload(reading.signal, showBusy);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.down) return showPhoto(error);
      [state.photo, state.classes] = before?.id ? [before, classesBefore] : [null, []];
      return showPhoto(error);
    }
    showPhoto();
    showStage();
    S.announce(`${state.photo.name} is read`);
    for (const lens of state.lenses) lens.explain();
    loadClasses();
  }

  async function upload(signal, onBusy) {
    const { file: chosen } = state.photo;
    const answer = await askPatiently(`api/photos?resize=${encodeURIComponent(S.data.resize)}`,
      { body: chosen, headers: { "X-File-Name": encodeURIComponent(wellFormed(chosen.name || "photo.png")) }, signal }, onBusy);
    state.photo = { file: chosen, ...(await answer.json()) };
  }

  // A name with half a character in it cannot be encoded.
  const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udfff]/g, "_"));

  /** Do something with the photo; where the page has forgotten it, give it again first. */
  async function withPhoto(action, signal) {
    try {
      return await action(state.photo.id);
    } catch (error) {
      if (!error.gone || !state.photo?.file) throw error;
      await upload(signal);
      return action(state.photo.id);
    }
  }

  function showReading() {
    photoPanel.setAttribute("aria-busy", "true");
    photoPanel.replaceChildren(h("p", { class: "working", text: `Reading ${state.photo.name} …` }));
    classPanel.hidden = true;
  }

  function showBusy(error) {
    photoPanel.replaceChildren(h("p", { class: "working", text: `${sentence(error.message)} It asks again by itself.` }));
  }

  function showPhoto(error = null) {
    photoPanel.removeAttribute("aria-busy");
    const { photo } = state;
    layout.classList.toggle("empty", !photo?.id);
    photoPanel.replaceChildren();
    if (error) photoPanel.append(failure(error));
    if (photo?.id) {
      photoPanel.append(
        h("div", { class: "photo-line" },
          h("img", { class: "thumb", src: `api/photos/${photo.id}`, alt: "" }),
          h("div", {}, h("p", { class: "photo-name", text: photo.name, title: photo.name }),
            h("p", { class: "faint", text: `${photo.size[0]} × ${photo.size[1]} pixels` }))),
        ...(photo.notes || []).map((note) => h("p", { class: "faint note", text: sentence(note) })),
        choosePhoto("Another photo"));
    } else {
      photoPanel.append(h("div", { class: "drop" },
        h("span", { class: "drop-icon" }, S.icon("photo")),
        h("p", { class: "drop-title", text: "Drop a photo here" }),
        h("p", { class: "faint", text: "or paste one, or choose a file. It stays between this page, the program that serves it, and the model." }),
        choosePhoto("Choose a photo", true)));
    }
    showClasses();
    showLook();
  }

  /* ---- classes ------------------------------------------------------------------------------------------------- */

  async function loadClasses() {
    const { photo } = state;
    const { choice } = state.lenses[0] || { choice: "" };
    try {
      const answer = await withPhoto((id) => askPatiently("api/classes", { json: { photo: id, choice } }));
      if (photo.file !== state.photo?.file) return;
      state.classes = (await answer.json()).classes;
    } catch (error) {
      if (error.down) setDown(error);
      return;
    }
    showClasses();
  }

  const nameOf = (one) => one.label || `class ${one.class_index}`;

  function showClasses() {
    classPanel.hidden = !state.photo?.id;
    if (classPanel.hidden) return;
    const row = (one, index) => {
      const value = index === 0 ? null : one.class_index;
      const share = one.probability ?? 0;
      return h("li", {}, h("label", { class: "class-row" },
        h("input", { type: "radio", name: "class", value: String(one.class_index), checked: state.wanted === value,
          on: { change: () => chooseClass(value) } }),
        h("span", { class: "class-name", text: nameOf(one) }),
        h("span", { class: "class-share", text: S.format("probability", one.probability) }),
        h("span", { class: "share", "aria-hidden": "true" }, h("span", { style: { width: `${100 * share}%` } }))));
    };
    const other = otherClass();
    classPanel.replaceChildren(h("h2", { id: "classes", text: "What the model sees" }),
      state.classes.length ? h("ul", { class: "classes" }, state.classes.map(row))
        : h("p", { class: "working", text: "Asking for the most probable classes …" }),
      other);
  }

  function otherClass() {
    const list = h("datalist", { id: "class-names" });
    const listed = state.classes.map((one, index) => (index === 0 ? null : one.class_index));
    const field = h("input", { type: "text", id: "other-class", list: "class-names", autocomplete: "off", spellcheck: "false",
      placeholder: "Name or number", value: listed.includes(state.wanted) ? "" : String(state.wanted ?? ""),
      on: { focus: () => fillNames(list), change: () => {
        const text = field.value.trim();
        chooseClass(text === "" ? null : /^\d+$/.test(text) ? Number(text) : text);
      } } });
    return h("div", { class: "field other-class" }, h("label", { class: "label", for: "other-class", text: "Another class" }), field, list);
  }

  async function fillNames(list) {
    if (list.childElementCount) return;
    try {
      const { names } = await (await ask("api/names")).json();
      list.replaceChildren(...(names || []).slice(0, 5000).map((name) => h("option", { value: name })));
    } catch { /* a number can be typed all the same */ }
  }

  function chooseClass(wanted) {
    if (wanted === state.wanted) return;
    state.wanted = wanted;
    for (const input of classPanel.querySelectorAll('input[type="radio"]')) {
      const first = Number(input.value) === state.classes[0]?.class_index;
      input.checked = wanted === null ? first : Number(input.value) === wanted;
    }
    for (const lens of state.lenses) lens.explain();
  }

  /* ---- how maps are drawn -------------------------------------------------------------------------------------- */

  function showLook() {
    lookPanel.hidden = !state.photo?.id;
    if (lookPanel.hidden) return;
    const several = state.lenses.length > 1;
    if (!several) state.look = { ...state.look, common: false, range: null };
    const controls = S.lookControls({ look: state.look, several, hasSigned: state.lenses.some((lens) => lens.hasSigned()),
      onChange: (look) => {
        state.look = look;
        drawAll();
      } });
    lookPanel.replaceChildren(h("h2", { text: "Drawing" }), controls.element);
  }

  const pictureOf = (map) => map && (state.look.signed && map.signed ? map.signed : map.absolute);

  function drawAll() {
    const pictures = state.lenses.map((lens) => pictureOf(lens.map)).filter(Boolean);
    const alike = new Set(pictures.map((one) => one.signed)).size === 1;
    const range = state.look.common && pictures.length > 1 && alike ? S.commonRange(pictures) : null;
    for (const lens of state.lenses) lens.draw({ ...state.look, range });
  }

  /* ---- a lens: one method of one version, and its map ---------------------------------------------------------- */

  function makeLens({ choice = "", method = null, values = {} }) {
    const lens = { choice, method, values: { ...values }, map: null, missed: false };
    let running = null, view = null, look = state.look;

    const controls = h("div", { class: "lens-controls" });
    const parameters = h("div", { class: "parameters" });
    const progress = h("div", { class: "progress", hidden: true });
    const errors = h("div", {});
    const picture = h("div", { class: "lens-picture" });
    const scale = h("div", { class: "lens-scale" });
    const facts = h("div", { class: "facts" });
    const files = h("div", { class: "files" });
    lens.element = h("section", { class: "panel lens", "aria-label": "Map" },
      h("div", { class: "lens-head" }, controls, progress, errors), h("div", { class: "lens-map" }, picture, scale), facts, files);

    const offered = () => state.offer.choices.find((one) => one.key === lens.choice) || state.offer.choices[0];
    const methods = () => offered().methods;
    const current = () => methods().find((one) => one.name === lens.method);
    lens.hasSigned = () => Boolean(current()?.signed);

    lens.offered = () => {
      lens.choice = offered().key;
      if (!current()) lens.method = offered().usual;
      showControls();
    };

    function showControls() {
      const several = state.offer.choices.length > 1;
      const chosen = S.select({ label: "Method", value: lens.method,
        options: methods().map((one) => ({ value: one.name, text: spoken(one.name) })),
        onChange: (value) => {
          lens.method = value;
          showParameters();
          showLook();
          lens.explain();
        } });
      const version = several ? S.select({ label: "Version", value: lens.choice,
        options: state.offer.choices.map((one) => ({ value: one.key, text: one.text })),
        onChange: (value) => {
          lens.choice = value;
          lens.offered();
          lens.explain();
          if (lens === state.lenses[0]) loadClasses();
        } }) : null;
      const place = state.lenses.indexOf(lens);
      const compare = state.lenses.length < 2
        ? S.button("Compare", { class: "button compare", title: "Another method or version beside this one" }, addLens)
        : place === 1 ? S.button("", { icon: "close", label: "Close this map" }, removeLens) : null;
      controls.replaceChildren(h("div", { class: "lens-row" }, chosen, version, compare), parameters);
      lens.element.setAttribute("aria-label", state.lenses.length > 1 ? `Map ${place + 1}` : "Map");
      showParameters();
    }
    lens.showControls = showControls;

    function showParameters() {
      const { fields } = current();
      const changed = fields.filter((field) => lens.values[field.name] !== undefined).length;
      const open = parameters.querySelector("details")?.open;
      parameters.replaceChildren();
      if (!fields.length) return;
      const summary = h("summary", {}, h("span", { text: "Parameters" }),
        changed ? h("span", { class: "chip", text: `${changed} changed` }) : null);
      parameters.append(h("details", { open }, summary, h("div", { class: "parameter-grid" }, fields.map(parameter))));
    }

    function parameter(field) {
      const id = S.newId("parameter");
      const input = h("input", { type: "number", id, step: field.kind === "whole" ? 1 : "any", min: field.least, max: field.most,
        inputmode: field.kind === "whole" ? "numeric" : "decimal", placeholder: field.default, "aria-describedby": `${id}-help`,
        on: { change: () => {
          const text = input.value.trim();
          if (text === "" || Number(text) === field.default) delete lens.values[field.name];
          else lens.values[field.name] = Number(text);
          lens.explain();
        } } });
      input.value = lens.values[field.name] ?? field.default ?? "";
      input.dataset.name = field.name;
      return h("div", { class: "field" }, h("label", { class: "label", for: id, text: field.label }), input,
        h("p", { class: "help", id: `${id}-help`, text: [sentence(field.help), field.range ? sentence(field.range) : ""].join(" ").trim() }));
    }

    lens.stop = () => {
      running?.abort();
      running = null;
    };

    /** Ask for the map, and draw it as it comes. */
    lens.explain = async () => {
      lens.stop();
      if (!state.photo?.id || !state.offer) return;
      const mine = (running = new AbortController());
      lens.missed = false;
      errors.replaceChildren();
      const given = Object.fromEntries(current().fields.filter((field) => lens.values[field.name] !== undefined)
        .map((field) => [field.name, lens.values[field.name]]));
      showProgress("Asking the model …", null);
      lens.element.setAttribute("aria-busy", "true");
      try {
        const answer = await withPhoto((photo) => askPatiently("api/explain", { signal: mine.signal,
          json: { photo, choice: lens.choice, method: lens.method, class: state.wanted, parameters: given } },
        (error) => showProgress(`${sentence(error.message)} It asks again by itself.`, null)), mine.signal);
        for await (const event of lines(answer)) {
          if (mine !== running) return;
          if (event.event === "map") showMap(event, current().refines ? given : null);
          else if (event.event === "error") throw new Told(event);
          else if (event.event === "end") finished();
        }
      } catch (error) {
        if (error.name === "AbortError" || mine !== running) return;
        showError(error instanceof Told ? error : new Told({ error: "the answer broke off", down: true }));
      } finally {
        if (mine === running) {
          running = null;
          progress.hidden = true;
          lens.element.removeAttribute("aria-busy");
        }
      }
    };

    function showProgress(text, share) {
      if (progress.hidden || !progress.firstChild) {
        progress.replaceChildren(h("span", { class: "progress-text" }),
          S.button("Stop", { quiet: true, class: "button stop" }, () => {
            lens.stop();
            progress.hidden = true;
            lens.element.removeAttribute("aria-busy");
            S.announce("Stopped");
            if (lens.map) finished();
          }),
          h("span", { class: "progress-bar" }, h("span", {})));
        progress.hidden = false;
      }
      progress.querySelector(".progress-text").textContent = text;
      const bar = progress.querySelector(".progress-bar");
      bar.classList.toggle("unknown", share === null);
      bar.firstChild.style.setProperty("width", share === null ? "30%" : `${Math.round(100 * Math.min(1, share))}%`);
    }

    function showError(error) {
      lens.missed = error.down;
      if (error.down) setDown(error);
      errors.replaceChildren(failure(error));
      if (!error.field) return;
      const input = parameters.querySelector(`input[data-name="${CSS.escape(error.field.name)}"]`);
      const field = current().fields.find((one) => one.name === error.field.name);
      if (!input || !field) return;
      for (const [key, attribute] of [["least", "min"], ["most", "max"]]) {
        if (error.field[key] === null) continue;
        field[key] = error.field[key];
        input.setAttribute(attribute, error.field[key]);
      }
      parameters.querySelector("details").open = true;
      input.setAttribute("aria-invalid", "true");
      input.focus();
    }

    function showMap(event, refining) {
      const known = event.signed || !state.look.signed;
      lens.map = event;
      if (!view) showView();
      view.setAlt(altText());
      drawAll();
      showFacts();
      if (!known) S.announce("This method has no signs; how much each place counts is drawn");
      if (!refining) return;
      const { count } = current();
      const most = refining[count] ?? current().fields.find((field) => field.name === count)?.default;
      const used = event.numbers.samples_used;
      showProgress(`${used.toLocaleString("en")}${most ? ` of at most ${most.toLocaleString("en")}` : ""} samples, relative error ${event.error ?? "unknown"}`,
        most ? used / most : null);
    }

    function finished() {
      progress.hidden = true;
      showFacts(true);
      showFiles();
      const { facts: found } = lens.map;
      S.announce(`Map of ${found.label || `class ${found.class_index}`}, ${spoken(found.method)}, is drawn`);
    }

    function altText() {
      const { facts: found } = lens.map;
      return `${spoken(found.method)} map of ${found.label || `class ${found.class_index}`} over ${state.photo.name}`;
    }

    function showView() {
      const { photo } = state;
      view = S.mapView({ photo: `api/photos/${photo.id}`, width: photo.view.size[0], height: photo.view.size[1],
        box: photo.view.box, alt: `The photo ${photo.name}`, map: null, look: state.look });
      picture.replaceChildren(view.element);
    }

    lens.newPhoto = () => {
      lens.map = null;
      errors.replaceChildren();
      scale.replaceChildren();
      facts.replaceChildren();
      files.replaceChildren();
      if (state.photo?.id) showView();
    };

    lens.draw = (next) => {
      look = next;
      if (!view) return;
      const shown = pictureOf(lens.map);
      view.setMap(shown);
      view.setLook(look);
      scale.replaceChildren(...(shown && look.style !== "photo" ? [S.legend(shown, look)] : []));
      lookChanged();
    };

    function showFacts(done = false) {
      const { facts: found, numbers, error, notes, milliseconds } = lens.map;
      const { probability, ...others } = numbers;
      const title = h("div", { class: "lens-title" },
        h("h2", { text: found.label || `class ${found.class_index}` }),
        probability === undefined ? null : S.number("probability", probability, { title: "" }));
      const shown = Object.entries(others).map(([name, value]) => S.number(name, value));
      if (error !== null) shown.unshift(S.number("relative_error", 0, { text: error }));
      shown.push(S.number("milliseconds", milliseconds));
      // What the map is of, whatever is chosen above by now.
      const of = [found.method, found.version ? `version ${found.version}` : ""].filter(Boolean).join(" · ");
      const version = h("span", { class: "faint", text: of });
      facts.replaceChildren(title, h("div", { class: "numbers" }, shown, version),
        ...(done ? notes : []).map((note) => h("p", { class: "note", text: sentence(note) })));
    }

    /* files and lines of the map that is shown */

    const query = () => {
      const parts = { style: look.style === "heatmap" ? "heatmap" : "overlay" };
      const signed = look.signed && lens.map.signed;
      if (signed) parts.signed = 1;
      const kind = signed ? "diverging" : "sequential";
      if (look[kind] !== S.DEFAULT_LOOK[kind]) parts.colormap = look[kind];
      if (parts.style === "overlay" && look.opacity !== S.DEFAULT_LOOK.opacity) parts.opacity = look.opacity;
      if (parts.style === "overlay" && look.photoColors) parts.photo_colors = 1;
      return new URLSearchParams(parts).toString();
    };
    const links = { png: null, npy: null };
    let again = null;

    function showFiles() {
      const link = (kind, text) => {
        links[kind] = h("a", { class: "button", download: "" }, S.icon("download"), h("span", { text }));
        return links[kind];
      };
      again = h("details", { class: "again", on: { toggle: () => again.open && showLines() } },
        h("summary", { text: "Make it again" }), h("div", { class: "lines" }));
      files.replaceChildren(h("div", { class: "file-row" }, link("png", "PNG"), link("npy", "Array (npy)")), again);
      lookChanged();
    }

    let drawnLater = 0;
    function lookChanged() {
      if (!lens.map || !links.png) return;
      const path = `api/maps/${lens.map.id}`;
      links.png.href = `${path}/file.png?${query()}`;
      links.npy.href = `${path}/file.npy?${query()}`;
      clearTimeout(drawnLater);
      if (again?.open) drawnLater = setTimeout(showLines, 200);
    }

    async function showLines() {
      const place = again.querySelector(".lines");
      try {
        const { command, python, fillIn } = await (await ask(`api/maps/${lens.map.id}/again?${query()}`)).json();
        const missing = Object.entries(fillIn);
        place.replaceChildren(S.command(command, { label: "Command" }), S.command(python, { label: "Python" }));
        if (missing.length) {
          place.append(h("p", { class: "note",
            text: `Set before: ${missing.map(([name, text]) => `${name}, ${text}`).join("; ")}.` }));
        }
      } catch (error) {
        if (error instanceof Told) place.replaceChildren(failure(error));
      }
    }

    if (state.offer) lens.offered();
    return lens;
  }

  function addLens() {
    const [first] = state.lenses;
    const other = state.offer.choices.find((one) => one.key !== first.choice);
    const { methods } = state.offer.choices.find((one) => one.key === first.choice);
    // Where there are two versions, the same method of the other; else another method.
    const next = methods[(methods.findIndex((one) => one.name === first.method) + 1) % methods.length].name;
    const lens = makeLens({ choice: other ? other.key : first.choice, method: other ? first.method : next, values: first.values });
    state.lenses.push(lens);
    showStage();
    showLook();
    lens.newPhoto();
    lens.explain();
    lens.element.querySelector("select").focus();
  }

  function removeLens() {
    state.lenses.pop().stop();
    showStage();
    showLook();
    drawAll();
    stage.querySelector(".compare")?.focus();
  }

  let staged = null;
  function showStage() {
    stage.classList.toggle("two", state.lenses.length > 1);
    for (const lens of state.lenses) lens.showControls();
    if (stage.childElementCount !== state.lenses.length) stage.replaceChildren(...state.lenses.map((lens) => lens.element));
    if (staged !== state.photo?.id) for (const lens of state.lenses) lens.newPhoto();
    staged = state.photo?.id;
  }

  /* ---- drop, paste, leave -------------------------------------------------------------------------------------- */

  const isFile = (transfer) => [...(transfer?.types || [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!isFile(event.dataTransfer)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!isFile(event.dataTransfer)) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) readPhoto(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData?.files || [];
    if (!pasted) return;
    event.preventDefault();
    readPhoto(pasted);
  });
  addEventListener("pagehide", () => {
    state.reading?.abort();
    for (const lens of state.lenses) lens.stop();
  });

  const top = S.header({ title: document.title, subtitle: " ", actions: [connection] });
  S.start(top, banner, file, layout);
  connection.textContent = "connecting …";
  lookPanel.hidden = classPanel.hidden = true;
  showPhoto();
  poll();
})();
