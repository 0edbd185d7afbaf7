// A click on the head of a column sorts the rows of its table; a second click sorts them the other way round.
document.addEventListener("DOMContentLoaded", () => {
  for (const head of document.querySelectorAll("table thead th")) {
    head.style.cursor = "pointer";
    head.title = "sort";
    head.addEventListener("click", () => {
      const body = head.closest("table").tBodies[0];
      const down = head.dataset.sorted !== "down";
      const key = (row) => row.cells[head.cellIndex].textContent.trim().replace("−", "-");
      const compare = (a, b) =>
        Number.isNaN(parseFloat(a)) || Number.isNaN(parseFloat(b)) ? a.localeCompare(b) : parseFloat(a) - parseFloat(b);
      const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
      head.dataset.sorted = down ? "down" : "up";
      body.append(...rows);
    });
  }
});
