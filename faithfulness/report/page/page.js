"use strict";
// Sorting, filtering and looking closer. The page is whole without it; all data stands in the tables.
(() => {
  const by = (id) => document.getElementById(id);

  const board = by("board");
  if (board) {
    const heads = [...board.tHead.rows[0].cells];
    const rows = [...board.tBodies[0].rows].map((row) => ({
      row,
      method: row.cells[0].textContent.toLowerCase() + " " + row.cells[0].title.toLowerCase(),
      model: row.dataset.model,
      cells: [...row.cells],
    }));
    const words = new Intl.Collator("en", { numeric: true });

    const keyOf = (entry, place, isText) => {
      const cell = entry.cells[place];
      if (isText) return cell.textContent;
      return cell.dataset.value ? Number(cell.dataset.value) : NaN;
    };

    const sort = (place, direction) => {
      const isText = "text" in heads[place].dataset;
      const sign = direction === "ascending" ? 1 : -1;
      const keyed = rows.map((entry) => [keyOf(entry, place, isText), entry]);
      keyed.sort(([a], [b]) => {
        if (isText) return sign * words.compare(a, b);
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // no value: last either way
        return sign * (a - b);
      });
      heads.forEach((head) => head.removeAttribute("aria-sort"));
      heads[place].setAttribute("aria-sort", direction);
      board.tBodies[0].append(...keyed.map(([, entry]) => entry.row));
    };

    const best = (head) => (head.dataset.best === "high" ? "descending" : "ascending");
    heads.forEach((head, place) => {
      head.querySelector("button")?.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(place, now ? (now === "ascending" ? "descending" : "ascending") : best(head));
      });
    });

    const filter = () => {
      const wanted = by("method").value.trim().toLowerCase();
      const model = by("model").value;
      const kind = by("kind").value;
      const isHidden = heads.map((head) => Boolean(kind && head.dataset.kind && head.dataset.kind !== kind));
      heads.forEach((head, place) => (head.hidden = isHidden[place]));
      let count = 0;
      for (const entry of rows) {
        let holds = !kind;
        entry.cells.forEach((cell, place) => {
          if (cell.hidden !== isHidden[place]) cell.hidden = isHidden[place];
          holds ||= !isHidden[place] && cell.dataset.kind === kind && !cell.classList.contains("none");
        });
        entry.row.hidden = !holds || !entry.method.includes(wanted) || Boolean(model && entry.model !== model);
        count += entry.row.hidden ? 0 : 1;
      }
      by("count").textContent = `${count} of ${rows.length} rows`;
    };

    const join = (button) => {
      const isOn = button.getAttribute("aria-pressed") === "true";
      for (const old of board.querySelectorAll(".joined")) old.classList.remove("joined");
      for (const old of board.querySelectorAll('.letters[aria-pressed="true"]')) old.setAttribute("aria-pressed", "false");
      by("told").textContent = "";
      if (isOn) return;
      button.setAttribute("aria-pressed", "true");
      const own = button.closest("td");
      const alike = (cell) =>
        cell.dataset.from === own.dataset.from && [...own.dataset.letters].some((each) => cell.dataset.letters.includes(each));
      const joined = rows.filter(({ cells }) => alike(cells[own.cellIndex]));
      for (const { cells } of joined) cells[own.cellIndex].classList.add("joined");
      const names = joined.map(({ row }) => row.cells[0].textContent);
      by("told").textContent = `not told apart in ${own.dataset.from}: ${names.join(", ")}`;
    };
    board.addEventListener("click", (event) => {
      const button = event.target.closest(".letters");
      if (button) join(button);
    });

    const firstShown = () => heads.findIndex((head) => head.dataset.kind && !head.hidden);
    by("method").addEventListener("input", filter);
    by("model").addEventListener("change", filter);
    by("kind").addEventListener("change", () => {
      filter();
      sort(firstShown(), best(heads[firstShown()]));
    });
    filter();
    sort(firstShown(), best(heads[firstShown()]));
  }

  const metric = by("metric");
  if (metric) {
    const choose = () => {
      for (const table of document.querySelectorAll(".matrix")) table.hidden = table.id !== metric.value;
    };
    metric.addEventListener("change", choose);
    choose();
  }

  const viewer = by("viewer");
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.opens");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    by("viewer-caption").textContent = link.dataset.caption;
    by("viewer-picture").src = link.getAttribute("href");
    by("viewer-picture").alt = link.querySelector("img")?.alt ?? link.dataset.caption;
    by("viewer-alone").href = link.getAttribute("href");
    viewer.showModal();
    by("viewer-close").focus();
  });
  by("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close(); // beside the picture
  });
})();
