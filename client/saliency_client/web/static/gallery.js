/* The gallery: a grid of photos that is drawn where it is looked at, and each photo with its maps. */
"use strict";

(() => {
  const { data, h, button, url, mapView, announce } = Saliency;

  /* ---- the index: saliency_client/web/gallery.py writes the rows ------------------------------------------- */

  const IN_A_FOLDER = 500;
  const methods = data.methods, numbers = data.numbers;
  const photos = data.photos.map(([name, argument, width, height, box, isPng, truth, right, classes], number) => {
    const named = classes.map(([index, label, probability, score, rank, maps], place) => ({
      place, index, label: label === null ? null : data.labels[label], probability, score, rank, maps,
    }));
    const [first] = named;
    return {
      number, name, argument: argument || name, width, height, box: box || [0, 0, width, height], truth, isPng,
      right: right === null ? null : Boolean(right), classes: named,
      title: first.label === null ? (first.index === null ? "no class" : `class ${first.index}`) : first.label,
    };
  });
  const hasTruth = photos.some((photo) => photo.right !== null);

  /** Names of a photo's pictures, made when they are looked at. */
  function pictures({ number, isPng }) {
    const start = `pictures/${Math.floor(number / IN_A_FOLDER)}/${number}`, ending = isPng ? "png" : "jpg";
    return { start, view: `${start}.${ending}`, small: `${start}-small.${ending}` };
  }

  /** A method's maps of one class: how much each place counts, and with signs, if it has any. */
  function mapsOf(photo, { place }, [method, low, high, signedHigh, values]) {
    const start = `${pictures(photo).start}-${place}-${method}`;
    return {
      method, values,
      saliency: { name: `${start}.png`, signed: false, low, high },
      signed: signedHigh === null ? null
        : { name: `${start}-signed.png`, signed: true, low: 0, high: signedHigh },
    };
  }

  /** Do something when nobody waits for the page. */
  const whenIdle = (work) => (window.requestIdleCallback ? requestIdleCallback(work, { timeout: 500 }) : setTimeout(work, 50));

  /** Texts to be searched in at once: in lower case, one a line, and where each begins. */
  function lines(texts) {
    const text = texts.map((one) => one.replaceAll("\n", " ")).join("\n").toLowerCase();
    const starts = [0];
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", end + 1)) starts.push(end + 1);
    return { text, starts };
  }

  /** The numbers of the texts that have a word, rising. */
  function having({ text, starts }, word) {
    const found = [];
    let line = 0;
    for (let at = text.indexOf(word); at >= 0; at = line < starts.length ? text.indexOf(word, starts[line]) : -1) {
      while (line < starts.length && starts[line] <= at) line += 1;
      found.push(line - 1);
    }
    return found;
  }

  let searched = null;

  /** Of each photo whether its name, one of its labels or its truth has a word: one pass over each text. */
  function photosHaving(word) {
    if (!searched) {
      const truths = [...new Set(photos.map((photo) => photo.truth ?? ""))];
      searched = { names: lines(photos.map((photo) => photo.name)), labels: lines(data.labels), truths, truthLines: lines(truths) };
    }
    const has = new Uint8Array(photos.length);
    for (const number of having(searched.names, word)) has[number] = 1;
    const labels = new Set(having(searched.labels, word).map((number) => data.labels[number]));
    const truths = new Set(having(searched.truthLines, word).map((number) => searched.truths[number]));
    if (!labels.size && !truths.size) return has;
    for (const photo of photos) {
      if (truths.has(photo.truth) || photo.classes.some((one) => labels.has(one.label))) has[photo.number] = 1;
    }
    return has;
  }

  const source = (map) => ({ ...map, src: url(map.name) });
  const short = (label) => label.split(",")[0];

  /** A number of a photo's map of its first class by a method; null where it is not known. */
  function value(photo, method, number) {
    const map = photo.classes[0].maps.find((one) => one[0] === method);
    return (map && Saliency.numeric(map[4][number])) ?? null;
  }

  /* ---- what is looked at ----------------------------------------------------------------------------------- */

  let look = { ...Saliency.DEFAULT_LOOK };
  const asked = { words: "", label: "", verdict: "", method: 0, sort: "given", down: false,
    probability: [null, null], most: {} };
  const inRange = (one, [low, high]) => (low === null || (one !== null && one >= low)) &&
    (high === null || (one !== null && one <= high));
  let shown = photos;

  const KEYS = {
    name: (photo) => nameOrder()[photo.number],
    label: (photo) => titleOrder().get(photo.title),
    probability: (photo) => photo.classes[0].probability,
    verdict: (photo) => (photo.right === null ? null : Number(photo.right)),
  };

  function sortKey() {
    if (KEYS[asked.sort]) return KEYS[asked.sort];
    const number = numbers.indexOf(asked.sort);
    return (photo) => value(photo, asked.method, number);
  }

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  let byName = null;

  /** The place of each photo by its name: sorting text as people do is slow, and done once. */
  function nameOrder() {
    if (!byName) {
      byName = [];
      [...photos].sort((one, other) => collator.compare(one.name, other.name))
        .forEach((photo, place) => { byName[photo.number] = place; });
    }
    return byName;
  }

  let byTitle = null;

  function titleOrder() {
    if (!byTitle) {
      const titles = [...new Set(photos.map((photo) => photo.title))].sort(collator.compare);
      byTitle = new Map(titles.map((title, place) => [title, place]));
    }
    return byTitle;
  }

  /** All photos as sorting puts them; what is not known comes last, whichever way. */
  function ordered() {
    if (asked.sort === "given") return asked.down ? [...photos].reverse() : photos;
    const key = sortKey(), turn = asked.down ? -1 : 1;
    const keys = Float64Array.from(photos, (photo) => key(photo) ?? NaN);
    const isKnown = ({ number }) => !Number.isNaN(keys[number]);
    // Of two infinities the difference is no number, and they stand as given.
    const known = photos.filter(isKnown)
      .sort(({ number: one }, { number: other }) => turn * (keys[one] - keys[other]) || one - other);
    return known.length === photos.length ? known : [...known, ...photos.filter((photo) => !isKnown(photo))];
  }

  const MOST_ORDERS = 8;
  const orders = new Map();

  /** The same, sorted once: a filter takes photos out of an order, and changes none. */
  function order() {
    const name = [asked.sort, numbers.includes(asked.sort) ? asked.method : "", asked.down].join();
    const found = orders.get(name) || ordered();
    orders.delete(name);
    orders.set(name, found);
    if (orders.size > MOST_ORDERS) orders.delete(orders.keys().next().value);
    return found;
  }

  /** What a photo has to fulfil, one function for each filter that is in use. */
  function conditions() {
    const found = asked.words.toLowerCase().split(/\s+/).filter(Boolean).map(photosHaving)
      .map((has) => ({ number }) => has[number]);
    if (asked.label) found.push(({ title }) => title === asked.label);
    if (asked.verdict) found.push(({ right }) => right === (asked.verdict === "right"));
    if (asked.probability.some((one) => one !== null)) found.push(({ classes: [first] }) => inRange(first.probability, asked.probability));
    if (methods.length > 1) found.push(({ classes: [first] }) => first.maps.some(([method]) => method === asked.method));
    for (const [name, most] of Object.entries(asked.most)) {
      const number = numbers.indexOf(name);
      if (most !== null) found.push((photo) => inRange(value(photo, asked.method, number), [null, most]));
    }
    return found;
  }

  function find() {
    const wanted = conditions();
    shown = order().filter((photo) => wanted.every((fits) => fits(photo)));
    active = Math.max(0, Math.min(active, shown.length - 1));
    fill(true);
    tellCount();
  }

  function tellCount() {
    const all = photos.length.toLocaleString("en"), some = shown.length.toLocaleString("en");
    const text = shown.length === photos.length ? `${all} photo${photos.length === 1 ? "" : "s"}` : `${some} of ${all} photos`;
    count.textContent = text;
    announce(text);
    none.hidden = shown.length > 0;
    const used = [asked.label, asked.verdict, ...asked.probability.map((one) => one !== null),
      ...Object.values(asked.most).map((most) => most !== null)].filter(Boolean).length;
    badge.textContent = used || "";
    badge.hidden = !used;
    reset.disabled = !used && !asked.words;
    if (shown.length) return;
    // Without a filter there is still the method, of which photos may have no map.
    none.textContent = reset.disabled ? `No photo has a map of ${methods[asked.method]}. Choose another method.`
      : "No photo fits. Clear the filters to see all of them.";
  }

  /* ---- the grid: as many elements as are in sight ------------------------------------------------------------ */

  const GAP = 18, CAPTION = 54;
  const grid = h("ul", { class: "grid", "aria-label": "Photos" });
  const tiles = new Map();
  const MOST_SPARE = 120;
  const spare = new Map();
  let columns = 1, size = 200, active = 0, waits = false;

  /** Take the measures of the grid; gives whether they have changed. */
  function measure() {
    const width = grid.clientWidth;
    if (!width) return false;
    const before = size;
    const least = width < 600 ? 150 : 196, gap = width < 600 ? 12 : GAP;
    columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
    size = (width - gap * (columns - 1)) / columns;
    grid.dataset.gap = gap;
    return size !== before;
  }

  /** Lay the tiles out anew where the grid has another width; a height alone is what `fill` gave it. */
  function layOut() {
    if (measure()) fill(true);
  }

  const step = () => Number(grid.dataset.gap || GAP);
  const rowHeight = () => size + CAPTION + step();

  /** What a tile shows beside its photo: one that shows the same is kept, and moved to its new place. */
  const stamp = () => [JSON.stringify(look), asked.method, numbers.includes(asked.sort) ? asked.sort : ""].join();

  function fill(anew) {
    const height = Math.max(0, Math.ceil(shown.length / columns) * rowHeight() - step());
    // Measured before anything is changed, so that the browser lays the page out once; but where the page gets
    // shorter while it is scrolled, where it then stands is known afterwards alone.
    let { top } = grid.getBoundingClientRect();
    const sight = innerHeight, moves = scrollY > 0 && height < parseFloat(grid.style.height || "0");
    grid.style.setProperty("height", `${height}px`);
    if (moves) ({ top } = grid.getBoundingClientRect());
    const focused = grid.contains(document.activeElement);
    const now = stamp();
    const before = anew ? new Map([...tiles.values()].map((tile) => [tile.photo, tile])) : new Map();
    if (anew) tiles.clear();
    if (home.hidden) {
      for (const tile of before.values()) putAway(tile);
      return;
    }
    // What is in sight first; a row above and one below it when that is drawn.
    const beyond = anew ? 0 : 1;
    if (anew) whenSeen(() => fill(false));
    const first = Math.max(0, Math.floor(-top / rowHeight()) - beyond);
    const last = Math.ceil((sight - top) / rowHeight()) + beyond;
    const wanted = new Set();
    for (let place = first * columns; place < Math.min(shown.length, last * columns); place += 1) wanted.add(place);
    // The one that has the focus stays, wherever it is.
    if (shown.length) wanted.add(active);
    for (const [place, tile] of tiles) {
      if (wanted.has(place)) continue;
      putAway(tile);
      tiles.delete(place);
    }
    const places = [...wanted].sort((one, other) => one - other);
    for (const place of places) {
      if (tiles.has(place)) continue;
      const photo = shown[place];
      const kept = [before, spare].find((each) => each.get(photo)?.stamp === now);
      const tile = kept ? kept.get(photo) : makeTile(photo, now);
      kept?.delete(photo);
      // Colors that nothing in the page has may have gone by now.
      if (kept === spare) tile.view.setLook(tileLook());
      putTile(tile, place);
      tiles.set(place, tile);
    }
    for (const tile of before.values()) putAway(tile);
    // In the order of the photos, for those who read along.
    let next = grid.firstChild;
    for (const place of places) {
      const { element } = tiles.get(place);
      if (element === next) next = next.nextSibling;
      else grid.insertBefore(element, next);
    }
    if (focused && anew) tiles.get(active)?.link.focus({ preventScroll: true });
  }

  /** Take a tile out of the page; it is kept for a while, since what a filter takes away often comes back. */
  function putAway(tile) {
    tile.element.remove();
    spare.delete(tile.photo);
    spare.set(tile.photo, tile);
    if (spare.size > MOST_SPARE) spare.delete(spare.keys().next().value);
  }

  let waiting = 0;

  /** Do something when the pictures in sight are drawn and nobody waits for the page, unless this is asked for again before. */
  function whenSeen(work) {
    const mine = (waiting += 1);
    const ended = (picture) => new Promise((done) => {
      for (const event of ["load", "error"]) picture.addEventListener(event, done, { once: true });
    });
    requestAnimationFrame(async () => {
      await Promise.all([...grid.querySelectorAll("img[src]")].filter((one) => !one.complete).map(ended));
      requestAnimationFrame(() => whenIdle(() => mine === waiting && work()));
    });
  }

  /** In the grid each map has a scale of its own. */
  const tileLook = () => ({ ...look, range: null });

  function mapOf(photo, wantSigned) {
    const [first] = photo.classes;
    const row = first.maps.find(([method]) => method === asked.method) || first.maps[0];
    if (!row) return null;
    const map = mapsOf(photo, first, row);
    return { method: row[0], ...((wantSigned && map.signed) || map.saliency) };
  }

  /** The part of a photo that the model saw, and where the map lies in it. */
  function seenPart({ box: [left, top, right, bottom], width, height }) {
    const from = [Math.max(0, left), Math.max(0, top)];
    const across = Math.min(right, width) - from[0], down = Math.min(bottom, height) - from[1];
    return { width: across, height: down,
      box: [left - from[0], top - from[1], right - from[0], bottom - from[1]] };
  }

  function makeTile(photo, made) {
    const map = mapOf(photo, look.signed);
    const view = mapView({ photo: url(pictures(photo).small), ...seenPart(photo), lazy: true, look: tileLook(),
      map: map ? source(map) : null, alt: `${photo.name}, map of ${methods[map ? map.method : asked.method]}` });
    const [first] = photo.classes;
    const sortedBy = numbers.includes(asked.sort) ? asked.sort : null;
    const told = sortedBy ? Saliency.format(sortedBy, value(photo, asked.method, numbers.indexOf(sortedBy)))
      : Saliency.format("probability", first.probability);
    const tile = { photo, stamp: made, place: 0, view };
    tile.link = h("a", { href: `#photo=${photo.number}`, on: { focus: () => activate(tile.place, false) } },
    h("div", { class: "frame" }, view.element, verdict(photo)),
    h("div", { class: "caption" },
      h("div", { class: "what" }, h("span", { class: "label", text: short(photo.title), title: photo.title }),
        h("span", { class: "told", text: told, title: sortedBy ? Saliency.meaning(sortedBy).title : "probability" })),
      h("div", { class: "file", text: photo.name, title: photo.name })));
    tile.element = h("li", { class: "tile" }, tile.link);
    return tile;
  }

  function putTile(tile, place) {
    const { element, link } = tile;
    tile.place = place;
    link.tabIndex = place === active ? 0 : -1;
    element.setAttribute("aria-setsize", shown.length);
    element.setAttribute("aria-posinset", place + 1);
    const placed = { left: `${(place % columns) * (size + step())}px`, top: `${Math.floor(place / columns) * rowHeight()}px`,
      width: `${size}px`, "--size": `${size}px` };
    for (const [name, value] of Object.entries(placed)) element.style.setProperty(name, value);
  }

  function verdict(photo, withText = false) {
    if (photo.right === null) return null;
    const text = photo.right ? "Right" : "Wrong";
    return h("span", { class: `verdict ${photo.right ? "right" : "wrong"}`, title: `${text}: it is ${photo.truth}` },
      Saliency.icon(photo.right ? "done" : "close"),
      h("span", { class: withText ? "" : "visually-hidden", text: withText ? text : `${text}: it is ${photo.truth}` }));
  }

  function activate(place, focus = true) {
    const before = tiles.get(active);
    if (before) before.link.tabIndex = -1;
    active = place;
    if (focus) {
      const top = grid.getBoundingClientRect().top + scrollY + Math.floor(place / columns) * rowHeight();
      const head = toolbar.getBoundingClientRect().height + 12;
      if (top < scrollY + head) scrollTo({ top: top - head });
      else if (top + rowHeight() > scrollY + innerHeight) scrollTo({ top: top + rowHeight() - innerHeight });
      fill(false);
    }
    const tile = tiles.get(place);
    if (!tile) return;
    tile.link.tabIndex = 0;
    if (focus) tile.link.focus({ preventScroll: true });
  }

  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.floor(innerHeight / rowHeight()) - 1) * columns;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -page, PageDown: page,
      Home: -shown.length, End: shown.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    activate(Math.max(0, Math.min(shown.length - 1, active + steps[event.key])));
  });

  addEventListener("scroll", () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      fill(false);
    });
  }, { passive: true });
  new ResizeObserver(layOut).observe(grid);
  addEventListener("resize", () => requestAnimationFrame(() => fill(false)), { passive: true });

  /* ---- what to look for -------------------------------------------------------------------------------------- */

  const count = h("p", { class: "count" });
  const badge = h("span", { class: "badge", hidden: true });
  const search = h("input", { type: "search", placeholder: "Search names and labels", "aria-label": "Search names and labels",
    on: { input: () => { asked.words = search.value; find(); } } });
  const words = (name) => { const { title } = Saliency.meaning(name); return title[0].toUpperCase() + title.slice(1); };
  const sorts = [["given", "As given"], ["name", "Name"], ["label", "Label"], ["probability", "Probability"],
    ...(hasTruth ? [["verdict", "Right or wrong"]] : []), ...numbers.map((name) => [name, words(name)])];
  const sort = Saliency.select({ label: "Sort by", hideLabel: true, value: asked.sort,
    options: sorts.map(([key, text]) => ({ value: key, text: key === "given" ? "Sort: as given" : text })),
    onChange: (next) => { asked.sort = next; find(); } });
  const turn = button("", { icon: "up", label: "Rising order" }, () => {
    asked.down = !asked.down;
    turn.replaceChildren(Saliency.icon(asked.down ? "down" : "up"));
    turn.setAttribute("aria-label", asked.down ? "Falling order" : "Rising order");
    turn.title = turn.getAttribute("aria-label");
    find();
  });
  const method = methods.length > 1 ? Saliency.select({ label: "Method", hideLabel: true, value: "0",
    options: methods.map((name, place) => ({ value: String(place), text: name })),
    onChange: (next) => { asked.method = Number(next); find(); } }) : null;
  const show = Saliency.segmented({ label: "Show", hideLabel: true, value: look.style,
    options: [{ value: "overlay", text: "Map" }, { value: "photo", text: "Photo" }],
    onChange: (next) => { setLook({ ...look, style: next }); } });

  function range(label, unit, take) {
    const field = (text, edge) => h("input", { type: "number", step: "any", min: 0, "aria-label": `${label} ${text}`,
      placeholder: text, on: { input: ({ target }) => { take(edge, target.value === "" ? null : target.valueAsNumber); find(); } } });
    return { from: () => field("from", 0), to: () => field("to", 1), most: () => field("at most", 1), unit };
  }

  const fields = [];
  const labels = [...new Map(photos.map((photo) => [photo.title, 0]))].map(([label]) => label).sort(collator.compare);
  const counts = new Map();
  for (const photo of photos) counts.set(photo.title, (counts.get(photo.title) || 0) + 1);
  const label = Saliency.select({ label: "Label", value: "", onChange: (next) => { asked.label = next; find(); },
    options: [{ value: "", text: "All labels" }, ...labels.map((one) => ({ value: one, text: `${one} (${counts.get(one)})` }))] });
  const right = hasTruth ? Saliency.segmented({ label: "Prediction", value: "", onChange: (next) => { asked.verdict = next; find(); },
    options: [{ value: "", text: "All" }, { value: "right", text: "Right" }, { value: "wrong", text: "Wrong" }] }) : null;
  const percent = range("Probability in percent", "%", (edge, next) => { asked.probability[edge] = next === null ? null : next / 100; });
  fields.push(h("fieldset", { class: "field range" }, h("legend", { class: "label", text: "Probability, %" }),
    h("div", { class: "pair" }, percent.from(), percent.to())));
  for (const name of ["relative_error", "completeness_error", "completeness_gap"]) {
    if (!numbers.includes(name)) continue;
    const limit = range(words(name), "", (edge, next) => { asked.most[name] = next; });
    fields.push(h("fieldset", { class: "field range" }, h("legend", { class: "label", text: words(name) }), limit.most()));
  }
  const reset = button("Clear", { quiet: true }, () => {
    Object.assign(asked, { words: "", label: "", verdict: "", probability: [null, null], most: {} });
    search.value = "";
    label.set("");
    right?.set("");
    for (const input of filters.querySelectorAll("input[type=number]")) input.value = "";
    find();
  });
  const filters = h("div", { class: "panel filters-panel", id: "filters", hidden: true }, label, right, fields, reset);
  const opener = button("Filters", { icon: "filter", "aria-expanded": "false", "aria-controls": "filters" }, () => {
    filters.hidden = !filters.hidden;
    opener.setAttribute("aria-expanded", String(!filters.hidden));
    fill(false);
  });
  opener.append(badge);
  const toolbar = h("div", { class: "toolbar", role: "search" },
    h("div", { class: "tools" }, h("div", { class: "search" }, search), method, h("div", { class: "sorting" }, sort, turn), opener, show),
    filters);
  const none = h("p", { class: "notice", hidden: true });

  function setLook(next) {
    look = next;
    show.set(next.style === "photo" ? "photo" : "overlay");
    fill(true);
  }

  /* ---- one photo --------------------------------------------------------------------------------------------- */

  const home = h("main", { class: "home" }, toolbar, count, none, grid);
  const detail = h("main", { class: "detail", hidden: true });
  const wide = matchMedia("(min-width: 901px)");
  let open = null, opened = 0, panelOpen = false;

  const leftOut = data.about.left_out || [];

  function command(photo, one) {
    const shared = data.about.command || [];
    const versions = new Map();
    for (const [method, , , , , version = data.version] of one.maps) {
      versions.set(version, [...(versions.get(version) || []), methods[method]]);
    }
    // One command for each version that answered: the newest one may be another by then. A directory is a version.
    return [...versions].map(([version, used]) => {
      const pinned = version === null || shared.includes("--local") ? [] : ["--version", String(version)];
      const word = ["saliency-client", "explain", photo.argument, ...shared, ...pinned, "--method", used.join(","),
        ...(one.index === null ? [] : ["--class-index", String(one.index)])];
      // Each option begins a line, so that a copied command breaks nowhere else.
      return word.map((one, index) => (index === 0 ? "" : one.startsWith("--") ? " \\\n  " : " ") + Saliency.shellWord(one)).join("");
    }).join("\n");
  }

  function showPhoto(photo, place = 0) {
    const again = open !== photo;
    open = photo;
    opened = Math.min(place, photo.classes.length - 1);
    const one = photo.classes[opened];
    const at = shown.indexOf(photo);
    const { view: picture } = pictures(photo);
    const maps = one.maps.map((row) => mapsOf(photo, one, row));
    const views = maps.map((map) => {
      const view = mapView({ photo: url(picture), width: photo.width, height: photo.height, box: photo.box, look,
        map: source(map.saliency), alt: `${photo.name}, map of ${methods[map.method]} for ${one.label ?? `class ${one.index}`}` });
      const scale = h("div", { class: "scale" });
      const known = map.values.map((each, number) => [numbers[number], each]).filter(([, each]) => each !== null);
      const figure = h("figure", { class: "shown" }, h("figcaption", {}, h("h3", { text: methods[map.method] })),
        view.element, scale, h("div", { class: "numbers" }, known.map(([name, each]) => Saliency.number(name, each))));
      return { map, view, scale, figure };
    });
    function draw() {
      const chosen = views.map(({ map }) => (look.signed && map.signed) || map.saliency);
      const alike = (map) => chosen.filter((other) => other.signed === map.signed);
      views.forEach(({ view, scale }, number) => {
        const map = chosen[number];
        const own = { ...look, range: look.common ? Saliency.commonRange(alike(map)) : null };
        view.setMap(source(map));
        view.setLook(own);
        scale.replaceChildren(Saliency.legend(map, own));
      });
    }
    const original = mapView({ photo: url(picture), width: photo.width, height: photo.height, box: [0, 0, photo.width, photo.height],
      alt: photo.name });
    const controls = Saliency.lookControls({ look, hasSigned: maps.some((map) => map.signed), several: views.length > 1,
      onChange: (next) => { look = next; draw(); } });
    const heading = h("h2", { tabindex: -1, text: photo.name });
    const next = (by) => at + by >= 0 && at + by < shown.length ? shown[at + by] : null;
    const to = (text, name, by) => button("", { icon: name, label: text, disabled: !next(by) }, () => go(next(by)));
    const classes = photo.classes.length > 1 ? Saliency.segmented({ label: "Explained class", value: String(opened),
      options: photo.classes.map((each, number) => ({ value: String(number),
        text: `${short(each.label ?? `class ${each.index}`)} ${Saliency.format("probability", each.probability)}` })),
      onChange: (value) => { showPhoto(photo, Number(value)); detail.querySelector(`.classes input[value="${value}"]`)?.focus(); } }) : null;
    classes?.classList.add("classes");
    const facts = h("div", { class: "facts" },
      h("div", { class: "class" }, h("strong", { text: one.label ?? `class ${one.index}` }), verdict(photo, true),
        photo.truth !== null && photo.right === false ? h("span", { class: "faint", text: `it is ${photo.truth}` }) : null),
      h("div", { class: "numbers" },
        one.probability === null ? null : Saliency.number("probability", one.probability),
        one.score === null ? null : Saliency.number("score", one.score),
        one.index === null ? null : Saliency.number("class_index", one.index)));
    detail.replaceChildren(
      h("div", { class: "bar" },
        button("All photos", { icon: "before", quiet: true }, leave), heading,
        h("span", { class: "place", text: at < 0 ? "" : `${(at + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}` }),
        to("Photo before", "before", -1), to("Next photo", "after", 1)),
      h("div", { class: "sides" },
        h("aside", { class: "side" }, facts, classes, h("details", { class: "panel", open: wide.matches || panelOpen,
          on: { toggle: ({ target }) => { panelOpen = target.open; } } },
        h("summary", { text: "How maps are shown" }), controls.element)),
        h("div", { class: "all" },
          h("div", { class: "columns" },
            h("figure", { class: "shown" }, h("figcaption", {}, h("h3", { text: "Original" })), original.element),
            views.map(({ figure }) => figure)),
          Saliency.command(command(photo, one), { label: "Make these maps again" }),
          leftOut.length ? h("p", { class: "note", text: `Not in this command, and needed where it was given: ${leftOut.join(", ")}.` }) : null)));
    draw();
    home.hidden = true;
    detail.hidden = false;
    document.title = `${photo.name} – ${data.title}`;
    if (again) {
      scrollTo({ top: 0 });
      heading.focus({ preventScroll: true });
    }
  }

  let left = 0;

  function go(photo) {
    if (!photo) return;
    location.replace(`#photo=${photo.number}`);
  }

  function leave() {
    location.hash = "#";
  }

  function follow() {
    const [, number] = /^#photo=(\d+)$/.exec(location.hash) || [];
    const photo = number === undefined ? null : photos[Number(number)];
    if (photo) {
      if (!open) left = scrollY;
      showPhoto(photo, open === photo ? opened : 0);
      return;
    }
    document.title = data.title;
    const last = open;
    open = null;
    detail.hidden = true;
    home.hidden = false;
    detail.replaceChildren();
    measure();
    if (!last) return;
    setLook(look);
    scrollTo({ top: left });
    const place = shown.indexOf(last);
    if (place >= 0) activate(place);
  }

  addEventListener("hashchange", follow);
  addEventListener("keydown", (event) => {
    if (!open || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Escape") leave();
    if (event.target.closest("input, select, pre")) return;
    const at = shown.indexOf(open);
    if (event.key === "ArrowLeft") go(shown[at - 1]);
    if (event.key === "ArrowRight") go(shown[at + 1]);
  });

  // A model whose name is the title is not named twice.
  const models = data.about.models.map(([name, version]) => [name === data.title ? "" : name,
    version === null ? "" : `version ${version}`].filter(Boolean).join(" ")).filter(Boolean).join(", ");
  document.title = data.title;
  Saliency.start(
    Saliency.header({ title: data.title,
      subtitle: [models, methods.length === 1 ? methods[0] : `${methods.length} methods`].filter(Boolean).join(" · ") }),
    home, detail,
    data.about.made_by ? h("footer", { class: "foot", text: `Made by ${data.about.made_by}` }) : "");
  follow();
  find();
})();
