// Filters the rows of all tables by words, which stand in the address, so that a view can be shared:
// index.html#tabular&filter=power+maf. Sorting is the library's. Without this all is there to read.
"use strict";
(() => {
  const box = document.getElementById("filter"), told = document.getElementById("told");
  const read = () => {
    const [place, words = ""] = location.hash.slice(1).split("&filter=");
    return { place: place.replace(/^filter=/, ""), words: location.hash.startsWith("#filter=")
      ? decode(place.slice("filter=".length)) : decode(words) };
  };
  const decode = (text) => {
    try { return decodeURIComponent(text.replace(/\+/g, " ")); } catch { return ""; }
  };
  const apply = (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const table of document.querySelectorAll("table.sortable")) {
      let title = null;
      for (const body of table.tBodies) {
        if (body.classList.contains("title")) { title = body; continue; }
        let some = false;
        for (const row of body.rows) {
          const within = `${title ? title.textContent : ""} ${row.textContent}`.toLowerCase();
          row.hidden = !words.every((word) => within.includes(word));
          some = some || !row.hidden;
          all += 1;
          shown += !row.hidden;
        }
        if (title) title.hidden = !some;
      }
    }
    told.textContent = words.length ? `${shown} of ${all} rows` : "";
  };
  const address = (place, text) => {
    const words = encodeURIComponent(text.trim()).replace(/%20/g, "+");
    return `#${place}${words ? `${place ? "&" : ""}filter=${words}` : ""}`;
  };
  const follow = () => {
    const { place, words } = read();
    if (location.hash.includes("filter=")) {
      box.value = words;
      apply(words);
      const target = document.getElementById(place);
      if (target) target.scrollIntoView();
    } else if (box.value.trim()) {
      // A link to a section says nothing of the filter, which stays.
      history.replaceState(null, "", address(place, box.value));
    }
  };
  box.addEventListener("input", () => {
    const { place } = read();
    const known = document.getElementById(place) ? place : "";
    history.replaceState(null, "", address(known, box.value) || "#");
    apply(box.value);
  });
  addEventListener("hashchange", follow);
  for (const head of document.querySelectorAll("table.sortable thead th")) {
    head.tabIndex = 0;
    head.title = "sort by this column";
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); head.click(); }
    });
  }
  document.getElementById("tools").hidden = false;
  follow();
})();
